// What the ops use of Abseil, for the build through TensorFlow's C API: the C++ one of each TensorFlow version has its
// own Abseil in its symbols, so that a library that uses it fits one version only.
#ifndef TF_BLOCKSPARSE_C_API_BASE_H_
#define TF_BLOCKSPARSE_C_API_BASE_H_

#include <mutex>
#include <sstream>
#include <string>
#include <utility>

#include "tensorflow/c/tf_status.h"

namespace absl {

using StatusCode = TF_Code;

class Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}
  bool ok() const { return code_ == TF_OK; }
  StatusCode code() const { return code_; }
  const std::string& message() const { return message_; }
  void Update(const Status& other) {
    if (ok()) *this = other;
  }
  void IgnoreError() const {}

 private:
  StatusCode code_ = TF_OK;
  std::string message_;
};

inline Status OkStatus() { return Status(); }
inline Status InvalidArgumentError(std::string message) { return Status(TF_INVALID_ARGUMENT, std::move(message)); }
inline Status ResourceExhaustedError(std::string message) { return Status(TF_RESOURCE_EXHAUSTED, std::move(message)); }

template <typename... Parts>
void StrAppend(std::string* text, const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  text->append(stream.str());
}

template <typename... Parts>
std::string StrCat(const Parts&... parts) {
  std::string text;
  StrAppend(&text, parts...);
  return text;
}

using Mutex = std::mutex;

class MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) : lock_(*mutex) {}

 private:
  std::lock_guard<std::mutex> lock_;
};

}  // namespace absl

#define TF_RETURN_IF_ERROR(...)                          \
  do {                                                   \
    ::absl::Status status_of_call = (__VA_ARGS__);       \
    if (!status_of_call.ok()) return status_of_call;     \
  } while (false)

#define OP_REQUIRES_OK(context, ...)                     \
  do {                                                   \
    ::absl::Status status_of_call = (__VA_ARGS__);       \
    if (!status_of_call.ok()) {                          \
      (context)->CtxFailure(status_of_call);             \
      return;                                            \
    }                                                    \
  } while (false)

#define OP_REQUIRES(context, condition, status)          \
  do {                                                   \
    if (!(condition)) {                                  \
      (context)->CtxFailure(status);                     \
      return;                                            \
    }                                                    \
  } while (false)

namespace tensorflow {

// A TF_Status, and what it says as an absl::Status.
class CStatus {
 public:
  CStatus() : status_(TF_NewStatus()) {}
  explicit CStatus(const absl::Status& status) : CStatus() { TF_SetStatus(status_, status.code(), status.message().c_str()); }
  ~CStatus() { TF_DeleteStatus(status_); }
  CStatus(const CStatus&) = delete;
  CStatus& operator=(const CStatus&) = delete;
  TF_Status* get() { return status_; }
  absl::Status status() const { return absl::Status(TF_GetCode(status_), TF_Message(status_)); }

 private:
  TF_Status* status_;
};

}  // namespace tensorflow

#endif  // TF_BLOCKSPARSE_C_API_BASE_H_
