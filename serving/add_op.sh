#!/bin/sh
# The one-line hook: adds the ops to those that are linked into the model server. Run it once.
#   sh add_op.sh tensorflow_serving/model_servers/BUILD
set -eu
LABEL=${LABEL:-//tensorflow_serving/custom_ops/blocksparse:block_sparse_ops}
grep -q "^SUPPORTED_TENSORFLOW_OPS = " "$1" || { echo "$1 has no line 'SUPPORTED_TENSORFLOW_OPS = ...'" >&2; exit 1; }
grep -q "$LABEL" "$1" || sed -i "s#^SUPPORTED_TENSORFLOW_OPS = #&[\"$LABEL\"] + #" "$1"
