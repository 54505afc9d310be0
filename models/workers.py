"""Several processes that train one model: started here by one command, or by the scheduler of a cluster.

    python -m models.word_lm --workers 2                # two processes on this machine
    python -m models.word_lm --cluster tf_config        # this process is one of those that TF_CONFIG names
    srun python -m models.word_lm --cluster slurm       # one of those of a Slurm step

docs/scaling.md says what must be set up on a cluster.
"""

import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import tensorflow as tf

CLUSTERS = ("tf_config", "slurm")
_PARENT_HOLDS_STDIN = "TF_BLOCKSPARSE_PARENT_HOLDS_STDIN"
_TAIL = 15  # lines of a failed worker's output that are shown


class WorkerError(RuntimeError):
    """One of several processes failed; the others cannot go on without it."""


def add_arguments(parser):
    """Adds what a command is asked that can train in several processes."""
    group = parser.add_argument_group("several processes")
    group.add_argument("--workers", type=int, default=1, metavar="N", help="train in N processes on this machine")
    group.add_argument("--cluster", choices=CLUSTERS, help="train as one process of a cluster: who tells which")


def check_arguments(parser, options):
    """Ends the command if what it was asked of processes cannot be."""
    if options.workers < 1:
        parser.error(f"--workers {options.workers}: expected 1 or more")
    if options.cluster and options.workers > 1:
        parser.error("--workers starts processes, --cluster is for one that was started: give one of them.")


def share_of(batch_size, count):
    """Streams of a batch that each worker reads: int; raises `ValueError` if they cannot be shared."""
    if batch_size % count:
        possible = [n for n in range(2, batch_size + 1) if batch_size % n == 0]
        raise ValueError(
            f"{count} workers cannot share the {batch_size} streams of a batch evenly. Possible are {possible}, or "
            "another --batch-size."
        )
    return batch_size // count


def launch(command, count, logs):
    """Runs a command in `count` processes that find each other by TF_CONFIG, until all have ended.

    What the first one prints is printed; the others write to files. If one of them fails, the others are ended; if
    this process dies, all end.

    Args:
        command: list of str.
        count: int.
        logs: path of a directory for the output of the others, which is made.

    Raises:
        WorkerError: if one of them failed.
    """
    pathlib.Path(logs).mkdir(parents=True, exist_ok=True)
    files = [logs / f"worker_{index}.log" for index in range(count)]
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(count)]
    workers = []
    try:
        for index in range(count):
            with open(files[index], "w", encoding="utf-8") as file:
                workers.append(_start(command, addresses, index, None if index == 0 else file))
        failed = _first_that_failed(workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if failed is not None:
        raise WorkerError(_failure(failed, workers[failed], files[failed]))


def _first_that_failed(workers):
    """Waits until one of the processes fails, or all have ended (None): its number."""
    while True:
        codes = [worker.poll() for worker in workers]
        failed = [number for number, code in enumerate(codes) if code]
        if failed:  # one that was killed before one that misses it
            return min(failed, key=lambda number: codes[number] > 0)
        if None not in codes:
            return None
        time.sleep(0.2)


def _start(command, addresses, index, output):
    cluster = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    environment = {**os.environ, "TF_CONFIG": json.dumps(cluster), _PARENT_HOLDS_STDIN: "1"}
    worker = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output and subprocess.STDOUT
    )
    print(f"worker {index}: process {worker.pid}", flush=True)
    return worker


def _failure(index, worker, log):
    code = worker.returncode
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
    said = f" It said last, in {log}:\n" + "\n".join(last) if last else ""
    return (
        f"Worker {index} (process {worker.pid}) {how}, and the others were ended. The same command with the same --out "
        f"goes on after the last whole epoch.{said}"
    )


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Workers:
    """This process and those that it trains with.

    Args:
        cluster: `"tf_config"` or `"slurm"`: who tells which process this is.

    Attributes:
        strategy: `tf.distribute.MultiWorkerMirroredStrategy`.
        index, count: int.
        has_parent: bool, whether `launch()` started this process.

    Raises:
        ValueError: if the environment does not say it, or a process has several devices.
    """

    def __init__(self, cluster):
        self.has_parent = bool(os.environ.get(_PARENT_HOLDS_STDIN))
        if self.has_parent:
            threading.Thread(target=_end_with_parent, daemon=True).start()
        resolver = RESOLVERS[cluster]()
        spec = resolver.cluster_spec()
        if resolver.task_type != "worker" or not spec.as_dict().get("worker"):
            raise ValueError(
                f"--cluster {cluster}: expected this process to be a worker. It is {resolver.task_type!r} in {spec}."
            )
        self.index, self.count = resolver.task_id, spec.num_tasks("worker")
        self.strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver)
        if self.strategy.num_replicas_in_sync != self.count:
            raise ValueError(
                f"{self.strategy.num_replicas_in_sync} devices in {self.count} processes: expected one in each. Start "
                "as many processes as there are GPUs, and show each of them one (CUDA_VISIBLE_DEVICES)."
            )

    @property
    def is_first(self):
        """Whether this is the one that writes."""
        return self.index == 0

    def wait(self):
        """Waits until all workers have come this far."""
        self.agree(0, "")

    def agree(self, number, what):
        """Waits for all workers; raises `ValueError` if they have not the same int."""
        numbers = self._gather(tf.constant([number])).numpy().tolist()
        if len(set(numbers)) > 1:
            raise ValueError(f"Workers find {numbers} {what} in --out. All of them must see one directory.")

    @tf.function
    def _gather(self, numbers):
        def replica(x):
            x = tf.identity(x)  # on the replica's device
            return tf.distribute.get_replica_context().all_gather(x, axis=0)

        return self.strategy.run(replica, args=(numbers,))


def _end_with_parent():
    while os.read(sys.stdin.fileno(), 1024):  # ends when the parent dies
        pass
    os._exit(1)


def _from_tf_config():
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if "TF_CONFIG" not in os.environ:
        raise ValueError('--cluster tf_config: no TF_CONFIG in the environment, as {"cluster": ..., "task": ...}.')
    return resolver


def _from_slurm():
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if not tasks.isdigit():
        raise ValueError("--cluster slurm: no SLURM_STEP_NUM_TASKS in the environment. Start the command with srun.")
    # Slurm hands out GPUs itself (--gpus-per-task). The resolver lists no task where it believes that there are none.
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        gpus_per_node=int(tasks), gpus_per_task=1, auto_set_gpu=False
    )
    resolver.cluster_spec()  # of which it takes its own task
    return resolver


RESOLVERS = {"tf_config": _from_tf_config, "slurm": _from_slurm}
