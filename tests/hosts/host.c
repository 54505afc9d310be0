/* Loads a SavedModel through TensorFlow's C API and computes one output of one float32 input.
 *
 *   host_c MODEL LIBRARY INPUT OUTPUT INPUT_OPERATION OUTPUT_OPERATION OUTPUT_INDEX DIMENSION...
 *
 * LIBRARY is that of the block-sparse ops, or - for a portable model. INPUT and OUTPUT are files of float32 numbers.
 * The names of the operations are those of the signature's tensors, which `saved_model_cli show --all` prints. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

enum { kMaxDims = 8 };

static void Require(const TF_Status* status, const char* what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", what, TF_Message(status));
  exit(1);
}

static TF_Tensor* ReadInput(const char* path, int dims, char** sizes) {
  int64_t shape[kMaxDims];
  size_t count = 1;
  for (int i = 0; i < dims; ++i) {
    shape[i] = atoll(sizes[i]);
    count *= (size_t)shape[i];
  }
  TF_Tensor* x = TF_AllocateTensor(TF_FLOAT, shape, dims, count * sizeof(float));
  FILE* file = fopen(path, "rb");
  if (file == NULL || fread(TF_TensorData(x), sizeof(float), count, file) != count) {
    fprintf(stderr, "%s has fewer than %zu numbers\n", path, count);
    exit(1);
  }
  fclose(file);
  return x;
}

static TF_Output Find(TF_Graph* graph, const char* name, int index) {
  TF_Output output = {TF_GraphOperationByName(graph, name), index};
  if (output.oper == NULL) {
    fprintf(stderr, "the graph has no operation %s\n", name);
    exit(1);
  }
  return output;
}

int main(int argc, char** argv) {
  if (argc < 9 || argc > 8 + kMaxDims) {
    fprintf(stderr, "usage: host_c MODEL LIBRARY INPUT OUTPUT INPUT_OPERATION OUTPUT_OPERATION OUTPUT_INDEX DIMENSION...\n");
    return 2;
  }
  TF_Status* status = TF_NewStatus();
  if (strcmp(argv[2], "-") != 0) {
    TF_LoadLibrary(argv[2], status);
    Require(status, "TF_LoadLibrary");
  }
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  Require(status, "TF_LoadSessionFromSavedModel");

  const TF_Output input = Find(graph, argv[5], 0);
  const TF_Output output = Find(graph, argv[6], atoi(argv[7]));
  TF_Tensor* x = ReadInput(argv[3], argc - 8, argv + 8);
  TF_Tensor* y = NULL;
  TF_SessionRun(session, NULL, &input, &x, 1, &output, &y, 1, NULL, 0, NULL, status);
  Require(status, "TF_SessionRun");

  FILE* file = fopen(argv[4], "wb");
  if (file == NULL || fwrite(TF_TensorData(y), 1, TF_TensorByteSize(y), file) != TF_TensorByteSize(y) ||
      fclose(file) != 0) {
    fprintf(stderr, "cannot write %s\n", argv[4]);
    return 1;
  }
  TF_DeleteTensor(x);
  TF_DeleteTensor(y);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
