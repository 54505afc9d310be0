# The CUDA kernels, compiled by NVRTC for each architecture and put into the op library as data. Where NVRTC is not
# installed, the op library is built without them, and TensorFlow runs the ops of a GPU on the CPU.
set(CUDA_OBJECTS)
if(TF_BLOCKSPARSE_CUDA)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  set(COMPILE_CUDA ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/cmake/compile_cuda.py
      --beside ${TF_DIR}/../nvidia/cuda_nvrtc/lib)
  execute_process(COMMAND ${COMPILE_CUDA} --find OUTPUT_VARIABLE NVRTC ERROR_VARIABLE NVRTC_MISSING
                  RESULT_VARIABLE FAILED OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_STRIP_TRAILING_WHITESPACE)
  if(FAILED AND NOT TF_BLOCKSPARSE_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "TF_BLOCKSPARSE_CUDA is ${TF_BLOCKSPARSE_CUDA}, but there is ${NVRTC_MISSING}")
  elseif(FAILED)
    message(STATUS "Without CUDA kernels: ${NVRTC_MISSING}")
  endif()
endif()

if(NVRTC AND NOT FAILED)
  message(STATUS "CUDA kernels for ${TF_BLOCKSPARSE_CUDA_ARCHITECTURES}, by ${NVRTC}")
  enable_language(ASM)
  file(GLOB CUDA_KERNEL_FILES CONFIGURE_DEPENDS ${CC}/cuda/*.cuh ${CC}/cuda/*.cu)
  set(CUDA_IMAGES)
  # PTX of 8.0 serves GPUs that are newer than all of these.
  foreach(architecture ${TF_BLOCKSPARSE_CUDA_ARCHITECTURES} ptx)
    set(target sm_${architecture})
    set(image ${CMAKE_CURRENT_BINARY_DIR}/cuda/kernels.sm_${architecture}.cubin)
    if(architecture STREQUAL "ptx")
      set(target compute_80)
      set(image ${CMAKE_CURRENT_BINARY_DIR}/cuda/kernels.ptx)
    endif()
    add_custom_command(
      OUTPUT ${image} COMMAND ${COMPILE_CUDA} ${target} ${image} VERBATIM COMMENT "Compiling CUDA kernels for ${target}"
      DEPENDS cmake/compile_cuda.py ${CUDA_KERNEL_FILES} ${CC}/cuda/arguments.h ${CC}/cuda/kernel_list.h)
    list(APPEND CUDA_IMAGES ${image})
  endforeach()
  set(CUDA_TABLE ${CMAKE_CURRENT_BINARY_DIR}/cuda/images.S)
  add_custom_command(OUTPUT ${CUDA_TABLE} COMMAND ${COMPILE_CUDA} --table ${CUDA_IMAGES} --output ${CUDA_TABLE}
                     DEPENDS ${CUDA_IMAGES} VERBATIM)
  add_library(blocksparse_cuda_images OBJECT ${CUDA_TABLE})
  set_source_files_properties(${CUDA_TABLE} PROPERTIES OBJECT_DEPENDS "${CUDA_IMAGES}")
  set(CUDA_OBJECTS ${CUDA_OP_SOURCES} $<TARGET_OBJECTS:blocksparse_cuda> $<TARGET_OBJECTS:blocksparse_cuda_images>)
endif()
