// Loads a SavedModel through tensorflow::LoadSavedModel and computes its serving_default of one float32 input.
//
//   host_cc MODEL LIBRARY INPUT OUTPUT DIMENSION...
//
// LIBRARY is that of the block-sparse ops, or - for a portable model. INPUT and OUTPUT are files of float32 numbers.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/public/session_options.h"

namespace {

void Require(const absl::Status& status, const char* what) {
  if (status.ok()) return;
  std::cerr << what << ": " << status.ToString() << std::endl;
  std::exit(1);
}

tensorflow::Tensor ReadInput(const char* path, int dims, char** sizes) {
  tensorflow::TensorShape shape;
  for (int i = 0; i < dims; ++i) shape.AddDim(std::atoll(sizes[i]));
  tensorflow::Tensor x(tensorflow::DT_FLOAT, shape);
  std::ifstream file(path, std::ios::binary);
  if (!file.read(static_cast<char*>(x.data()), x.TotalBytes())) {
    std::cerr << path << " has fewer than " << x.TotalBytes() << " bytes" << std::endl;
    std::exit(1);
  }
  return x;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    std::cerr << "usage: host_cc MODEL LIBRARY INPUT OUTPUT DIMENSION..." << std::endl;
    return 2;
  }
  const std::string library = argv[2];
  if (library != "-") {
    void* handle;
    Require(tensorflow::Env::Default()->LoadDynamicLibrary(library.c_str(), &handle), "LoadDynamicLibrary");
  }
  tensorflow::SavedModelBundle bundle;
  Require(tensorflow::LoadSavedModel({}, {}, argv[1], {"serve"}, &bundle), "LoadSavedModel");
  const auto& signature = bundle.GetSignatures().at("serving_default");
  const std::string input = signature.inputs().begin()->second.name();
  const std::string output = signature.outputs().begin()->second.name();
  std::vector<tensorflow::Tensor> y;
  Require(bundle.GetSession()->Run({{input, ReadInput(argv[3], argc - 5, argv + 5)}}, {output}, {}, &y), "Run");
  std::ofstream(argv[4], std::ios::binary).write(static_cast<const char*>(y[0].data()), y[0].TotalBytes());
  std::cout << y[0].shape().DebugString() << std::endl;
  return 0;
}
