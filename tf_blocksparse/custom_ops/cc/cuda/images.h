// The compiled kernels that this build holds: one image an architecture, and code for architectures to come.
#ifndef TF_BLOCKSPARSE_CUDA_IMAGES_H_
#define TF_BLOCKSPARSE_CUDA_IMAGES_H_

#include <cstdint>

extern "C" {

struct BlocksparseCudaImage {
  const void* data;
  uint64_t bytes;
  int32_t architecture;  // 80 for 8.0
  int32_t is_ptx;        // a text that the driver compiles for any architecture from this one on
};

// Of the assembler file that cmake/compile_cuda.py writes.
extern const BlocksparseCudaImage blocksparse_cuda_images[];
extern const int32_t blocksparse_num_cuda_images;
}

#endif  // TF_BLOCKSPARSE_CUDA_IMAGES_H_
