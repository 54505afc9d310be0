// For the build through the C API, in place of the header of this name.
#include "tf_blocksparse/custom_ops/cc/c_api/op.h"
