// Every CUDA kernel, once: the device code is made of this list, and so are the host's table, which it chooses from,
// the emulator's and the tests'. A product takes the first kernel of the list that fits.
//
// Before including, define what of these is wanted; the others do nothing.
//   PRODUCT_TILE(name, format, transposed, block_k, chunk_k, chunk_n, rows, columns, thread_rows, thread_columns)
//       block_k: the only one that it can do; 0: any multiple of chunk_k, with block_n a multiple of chunk_n.
//   PRODUCT_TENSOR(name, format, transposed, rows, columns)   blocks of multiples of 16
//   PRODUCT_FEW(name, format, rows)                           any blocks, for few rows of the batch
//   GRAD_TILE(name, format, rows, columns, thread_rows, thread_columns, lanes)   any blocks
//   GRAD_TENSOR(name, format, side)                           blocks of multiples of 16
//   COMBINE(name, format) GRAD_COMBINE(name, format)          sums of what was split
//   DYNAMIC(name, format, rows)                               blocks that each example chose, for so many examples
//   DYNAMIC_GRAD(name, format, rows, columns, thread_rows, thread_columns, lanes)   the gradient of these
//   SINGLE(name, kernel, args, threads)                       the only one of its kind
#ifndef PRODUCT_TILE
#define PRODUCT_TILE(...)
#endif
#ifndef PRODUCT_TENSOR
#define PRODUCT_TENSOR(...)
#endif
#ifndef PRODUCT_FEW
#define PRODUCT_FEW(...)
#endif
#ifndef GRAD_TILE
#define GRAD_TILE(...)
#endif
#ifndef GRAD_TENSOR
#define GRAD_TENSOR(...)
#endif
#ifndef COMBINE
#define COMBINE(...)
#endif
#ifndef GRAD_COMBINE
#define GRAD_COMBINE(...)
#endif
#ifndef DYNAMIC
#define DYNAMIC(...)
#endif
#ifndef DYNAMIC_GRAD
#define DYNAMIC_GRAD(...)
#endif
#ifndef SINGLE
#define SINGLE(...)
#endif

// y = x W.
PRODUCT_TENSOR(product_tf32_64, Tf32, false, 64, 64)
PRODUCT_TENSOR(product_tf32_32, Tf32, false, 128, 32)
PRODUCT_TENSOR(product_tf32_16, Tf32, false, 128, 16)
PRODUCT_TENSOR(product_f16_64, Float16, false, 64, 64)
PRODUCT_TENSOR(product_f16_32, Float16, false, 128, 32)
PRODUCT_TENSOR(product_f16_16, Float16, false, 128, 16)
PRODUCT_TENSOR(product_bf16_64, BFloat16, false, 64, 64)
PRODUCT_TENSOR(product_bf16_32, BFloat16, false, 128, 32)
PRODUCT_TENSOR(product_bf16_16, BFloat16, false, 128, 16)
PRODUCT_TILE(product_f32_4x4, Float32, false, 4, 4, 4, 128, 4, 2, 4)
PRODUCT_TILE(product_f32_8x8, Float32, false, 8, 4, 4, 64, 8, 2, 4)
PRODUCT_TILE(product_f32_12x2, Float32, false, 12, 4, 2, 128, 2, 2, 2)
PRODUCT_TILE(product_f32_1x16, Float32, false, 1, 1, 4, 32, 16, 2, 4)
PRODUCT_TILE(product_f32_64, Float32, false, 0, 4, 4, 64, 64, 8, 4)
PRODUCT_TILE(product_f32_32, Float32, false, 0, 4, 4, 64, 32, 4, 4)
PRODUCT_TILE(product_f32_16, Float32, false, 0, 4, 4, 64, 16, 4, 4)
PRODUCT_TILE(product_f32_any, Float32, false, 0, 1, 1, 64, 32, 4, 4)
PRODUCT_TILE(product_f16_any, Float16, false, 0, 1, 1, 64, 32, 4, 4)
PRODUCT_TILE(product_bf16_any, BFloat16, false, 0, 1, 1, 64, 32, 4, 4)

// dx = dy W^T: block_k is the width and block_n the height of a block.
PRODUCT_TENSOR(grad_x_tf32_64, Tf32, true, 64, 64)
PRODUCT_TENSOR(grad_x_tf32_32, Tf32, true, 128, 32)
PRODUCT_TENSOR(grad_x_tf32_16, Tf32, true, 128, 16)
PRODUCT_TENSOR(grad_x_f16_64, Float16, true, 64, 64)
PRODUCT_TENSOR(grad_x_f16_32, Float16, true, 128, 32)
PRODUCT_TENSOR(grad_x_f16_16, Float16, true, 128, 16)
PRODUCT_TENSOR(grad_x_bf16_64, BFloat16, true, 64, 64)
PRODUCT_TENSOR(grad_x_bf16_32, BFloat16, true, 128, 32)
PRODUCT_TENSOR(grad_x_bf16_16, BFloat16, true, 128, 16)
PRODUCT_TILE(grad_x_f32_4x4, Float32, true, 4, 4, 4, 128, 4, 2, 4)
PRODUCT_TILE(grad_x_f32_8x8, Float32, true, 8, 4, 4, 64, 8, 2, 4)
PRODUCT_TILE(grad_x_f32_12x2, Float32, true, 2, 2, 4, 32, 12, 2, 4)
PRODUCT_TILE(grad_x_f32_1x16, Float32, true, 16, 4, 1, 128, 1, 2, 1)
PRODUCT_TILE(grad_x_f32_64, Float32, true, 0, 4, 4, 64, 64, 8, 4)
PRODUCT_TILE(grad_x_f32_32, Float32, true, 0, 4, 4, 64, 32, 4, 4)
PRODUCT_TILE(grad_x_f32_16, Float32, true, 0, 4, 4, 64, 16, 4, 4)
PRODUCT_TILE(grad_x_f32_any, Float32, true, 0, 1, 1, 64, 32, 4, 4)
PRODUCT_TILE(grad_x_f16_any, Float16, true, 0, 1, 1, 64, 32, 4, 4)
PRODUCT_TILE(grad_x_bf16_any, BFloat16, true, 0, 1, 1, 64, 32, 4, 4)

// Either, for a batch of 1 and of up to 8 rows.
PRODUCT_FEW(few_f32_1, Float32, 1)
PRODUCT_FEW(few_f32_8, Float32, 8)
PRODUCT_FEW(few_f16_1, Float16, 1)
PRODUCT_FEW(few_f16_8, Float16, 8)
PRODUCT_FEW(few_bf16_1, BFloat16, 1)
PRODUCT_FEW(few_bf16_8, BFloat16, 8)

GRAD_TENSOR(grad_blocks_tf32_64, Tf32, 64)
GRAD_TENSOR(grad_blocks_tf32_32, Tf32, 32)
GRAD_TENSOR(grad_blocks_tf32_16, Tf32, 16)
GRAD_TENSOR(grad_blocks_f16_64, Float16, 64)
GRAD_TENSOR(grad_blocks_f16_32, Float16, 32)
GRAD_TENSOR(grad_blocks_f16_16, Float16, 16)
GRAD_TENSOR(grad_blocks_bf16_64, BFloat16, 64)
GRAD_TENSOR(grad_blocks_bf16_32, BFloat16, 32)
GRAD_TENSOR(grad_blocks_bf16_16, BFloat16, 16)
GRAD_TILE(grad_blocks_f32_64, Float32, 64, 64, 8, 4, 1)
GRAD_TILE(grad_blocks_f32_32, Float32, 32, 32, 4, 4, 2)
GRAD_TILE(grad_blocks_f32_16, Float32, 16, 16, 4, 4, 8)
GRAD_TILE(grad_blocks_f32_8x8, Float32, 8, 8, 4, 4, 16)
GRAD_TILE(grad_blocks_f32_4x4, Float32, 4, 4, 2, 2, 16)
GRAD_TILE(grad_blocks_f32_12x2, Float32, 12, 2, 4, 2, 16)
GRAD_TILE(grad_blocks_f32_1x16, Float32, 1, 16, 1, 4, 16)
GRAD_TILE(grad_blocks_f16_16x16, Float16, 16, 16, 4, 4, 8)
GRAD_TILE(grad_blocks_bf16_16x16, BFloat16, 16, 16, 4, 4, 8)

COMBINE(combine_f32, Float32)
COMBINE(combine_f16, Float16)
COMBINE(combine_bf16, BFloat16)
GRAD_COMBINE(grad_combine_f32, Float32)
GRAD_COMBINE(grad_combine_f16, Float16)
GRAD_COMBINE(grad_combine_bf16, BFloat16)

// Products of which every example chooses its blocks.
DYNAMIC(dynamic_f32_1, Float32, 1)
DYNAMIC(dynamic_f32_8, Float32, 8)
DYNAMIC_GRAD(dynamic_grad_f32_64, Float32, 64, 64, 8, 4, 1)
DYNAMIC_GRAD(dynamic_grad_f32_16, Float32, 16, 16, 4, 4, 8)
DYNAMIC_GRAD(dynamic_grad_f32_4, Float32, 4, 4, 2, 2, 16)
SINGLE(choice_clear, ChoiceClear, ChoiceArgs, 256)
SINGLE(choice_scatter, ChoiceScatter, ChoiceArgs, 256)
SINGLE(dynamic_combine, DynamicCombine, DynamicArgs, 256)
SINGLE(dynamic_gates, DynamicGates, DynamicGatesArgs, 128)
SINGLE(choose_blocks, ChooseBlocks, ChooseArgs, 256)

// Recurrent layers.
SINGLE(mask_flags, MaskFlags, MaskArgs, 128)
SINGLE(sequence_add, Add, AddArgs, 256)
SINGLE(cell_step, CellStep, CellArgs, 256)
SINGLE(cell_grad, CellGrad, CellGradArgs, 256)

#undef PRODUCT_TILE
#undef PRODUCT_TENSOR
#undef PRODUCT_FEW
#undef GRAD_TILE
#undef GRAD_TENSOR
#undef COMBINE
#undef GRAD_COMBINE
#undef DYNAMIC
#undef DYNAMIC_GRAD
#undef SINGLE
