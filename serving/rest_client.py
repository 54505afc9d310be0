"""Asks a model server over REST.

python serving/rest_client.py http://localhost:8501/v1/models/tagger '{"x": [[0.5, 1.0]]}'
python serving/rest_client.py http://localhost:8501/v1/models/tagger '{"x": ...}' --signature step
"""

import argparse
import json

import requests


def predict(url, inputs, signature="serving_default", timeout=10.0):
    """Outputs of a model for one request.

    Args:
        url: of the model, as `http://localhost:8501/v1/models/tagger`, or of one version of it, `.../versions/2`.
        inputs: dict from input names to nested lists (or arrays), whole batches each.
        signature: name of the signature.
        timeout: seconds to wait.

    Returns:
        A dict from output names to nested lists; of a single output, its nested list.

    Raises:
        RuntimeError: with the server's own words, if it cannot answer.
    """
    columns = {name: values.tolist() if hasattr(values, "tolist") else values for name, values in inputs.items()}
    request = {"signature_name": signature, "inputs": columns}
    response = requests.post(f"{url}:predict", json=request, timeout=timeout)
    if not response.ok:
        raise RuntimeError(f"{response.status_code} {response.reason}: {response.json().get('error', response.text)}")
    return response.json()["outputs"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("inputs", type=json.loads, help="JSON: input names with their values")
    parser.add_argument("--signature", default="serving_default")
    options = parser.parse_args()
    print(json.dumps(predict(options.url, options.inputs, options.signature)))
