# Tests of the CUDA kernels and of what launches them, on an emulator: see tests/cc/cuda_emulator.h.
set(EMULATE -O1 -Wall -Wextra -Wno-unknown-pragmas)  # #pragma unroll

add_library(blocksparse_emulated_kernels OBJECT tests/cc/cuda_kernels.cc)
target_compile_options(blocksparse_emulated_kernels PRIVATE ${EMULATE})
target_include_directories(blocksparse_emulated_kernels PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
add_library(blocksparse_cuda_testing OBJECT tests/cc/cuda_products.cc)
target_link_libraries(blocksparse_cuda_testing PRIVATE blocksparse_testing)
target_compile_options(blocksparse_cuda_testing PRIVATE -O1 -Wall -Wextra)
# driver.cc asks for images: only a test that has some takes it.
set(CUDA_LAUNCHER $<FILTER:$<TARGET_OBJECTS:blocksparse_cuda>,EXCLUDE,/driver\\.cc>)

function(add_cuda_test name)
  add_executable(${name} tests/cc/${name}.cc ${ARGN})
  target_compile_options(${name} PRIVATE -O1 -Wall -Wextra)
  target_link_libraries(${name} PRIVATE blocksparse_testing ${CMAKE_DL_LIBS})
  add_test(NAME ${name} COMMAND ${name})
endfunction()

if(NOT SANITIZERS STREQUAL "thread")  # which does not know about fibers
  add_cuda_test(cuda_test $<TARGET_OBJECTS:blocksparse_emulated_kernels> $<TARGET_OBJECTS:blocksparse_cuda_testing>
                ${CUDA_LAUNCHER})
  add_cuda_test(cuda_dynamic_test tests/cc/cuda_dynamic.cc $<TARGET_OBJECTS:blocksparse_emulated_kernels>
                $<TARGET_OBJECTS:blocksparse_cuda_testing> ${CUDA_LAUNCHER})
  add_cuda_test(cuda_sequence_test $<TARGET_OBJECTS:blocksparse_emulated_kernels>
                $<TARGET_OBJECTS:blocksparse_cuda_testing> ${CUDA_LAUNCHER})
  add_cuda_test(cuda_emulator_test)
  target_compile_options(cuda_emulator_test PRIVATE -Wno-unknown-pragmas)
  if(SANITIZERS)
    set_tests_properties(cuda_test cuda_dynamic_test cuda_sequence_test PROPERTIES ENVIRONMENT TF_BLOCKSPARSE_TEST_EVERY=4)
  endif()
endif()

if(NOT CMAKE_CROSSCOMPILING AND NOT SANITIZERS)
  # A driver of which libcuda's place is taken.
  add_library(fake_libcuda SHARED tests/cc/fake_libcuda.cc ${CC}/cuda/kernel_table.cc
              $<TARGET_OBJECTS:blocksparse_emulated_kernels>)
  target_include_directories(fake_libcuda PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_options(fake_libcuda PRIVATE -O1 -Wall -Wextra)
  add_cuda_test(cuda_driver_test $<TARGET_OBJECTS:blocksparse_emulated_kernels>
                $<TARGET_OBJECTS:blocksparse_cuda_testing> $<TARGET_OBJECTS:blocksparse_cuda>)
  set_tests_properties(cuda_driver_test PROPERTIES ENVIRONMENT TF_BLOCKSPARSE_LIBCUDA=$<TARGET_FILE:fake_libcuda>)
  add_dependencies(cuda_driver_test fake_libcuda)
endif()

# The kernels again, with a thread of the system for each of theirs, under ThreadSanitizer.
if(NOT CMAKE_CROSSCOMPILING AND NOT SANITIZERS STREQUAL "address,undefined")
  include(CheckCXXSourceRuns)
  set(CMAKE_REQUIRED_FLAGS -fsanitize=thread)
  check_cxx_source_runs("int main() {}" HAVE_THREAD_SANITIZER)  # some kernels lay out memory as it cannot take
  unset(CMAKE_REQUIRED_FLAGS)
endif()
if(HAVE_THREAD_SANITIZER)
  add_cuda_test(cuda_race_test tests/cc/cuda_kernels.cc tests/cc/cuda_products.cc tests/cc/cuda_dynamic.cc
                ${CUDA_LAUNCHER})
  target_compile_definitions(cuda_race_test PRIVATE BLOCKSPARSE_EMULATE_WITH_THREADS)
  target_compile_options(cuda_race_test PRIVATE -Wno-unknown-pragmas -fsanitize=thread -g1)
  target_link_options(cuda_race_test PRIVATE -fsanitize=thread)
  set_tests_properties(cuda_race_test PROPERTIES ENVIRONMENT TSAN_OPTIONS=halt_on_error=1)
endif()

# The ops of a GPU, on the CPU: tests/custom_ops/test_cuda.py loads this, and fake_libcuda.
if(TF_BLOCKSPARSE_OPS AND CUDA_OBJECTS)
  set(EMULATED_OP_SOURCES ${CUDA_OP_SOURCES})
  list(REMOVE_ITEM EMULATED_OP_SOURCES ${CC}/ops/gpu_ops.cc)
  add_library(emulated_ops MODULE tests/cc/emulated_ops.cc ${EMULATED_OP_SOURCES} ${CC}/ops/block_index_cache.cc
              ${CC}/ops/dynamic_checks.cc ${CC}/ops/op_support.cc ${CC}/ops/sequence_op_support.cc
              $<TARGET_OBJECTS:blocksparse_kernels> ${ISA_OBJECTS}
              $<TARGET_OBJECTS:blocksparse_cuda> $<TARGET_OBJECTS:blocksparse_cuda_images>)
  target_include_directories(emulated_ops PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
  target_link_libraries(emulated_ops PRIVATE tf_framework ${CMAKE_DL_LIBS})
  target_compile_options(emulated_ops PRIVATE -O2 -Wall -Wextra -Wno-unused-parameter)
endif()

# That no kernel spills registers, by the compiler's logs.
if(CUDA_OBJECTS)
  list(FILTER CUDA_IMAGES INCLUDE REGEX cubin$)
  add_test(NAME cuda_figures_test
           COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/cmake/cuda_figures.py ${CUDA_IMAGES} --check)
endif()
