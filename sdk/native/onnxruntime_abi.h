// What this library calls of onnxruntime's C interface (version 17, onnxruntime 1.17): its functions by their place
// in its table, which only grows, and the description of an operator. Facts of onnxruntime_c_api.h; no header of
// onnxruntime is needed to build.
#pragma once

#include <cstddef>
#include <cstdint>

namespace relsdk {
namespace ort {

constexpr uint32_t kVersion = 17;
constexpr int kFail = 1, kInvalidArgument = 2;                   // error codes
constexpr int kAny = 0, kFloat = 1, kUint8 = 2, kInt8 = 3, kInt64 = 7;  // element types
constexpr int kRequired = 0, kVariadic = 2;                      // characteristics of inputs and outputs

struct Api;
struct Status;
struct Value;
struct Shape;
struct Info;
struct Context;
struct Domain;
struct Options;

struct Base {
  const Api* (*get_api)(uint32_t version);
  const char* (*version)();
};

struct Operator {
  uint32_t version;
  void* (*create)(const Operator*, const Api*, const Info*);
  const char* (*name)(const Operator*);
  const char* (*provider)(const Operator*);
  int (*input_type)(const Operator*, size_t);
  size_t (*input_count)(const Operator*);
  int (*output_type)(const Operator*, size_t);
  size_t (*output_count)(const Operator*);
  void (*compute)(void*, Context*);
  void (*destroy)(void*);
  int (*input_characteristic)(const Operator*, size_t);
  int (*output_characteristic)(const Operator*, size_t);
  int (*input_memory)(const Operator*, size_t);
  int (*variadic_input_least)(const Operator*);
  int (*variadic_input_same)(const Operator*);
  int (*variadic_output_least)(const Operator*);
  int (*variadic_output_same)(const Operator*);
  Status* (*try_create)(const Operator*, const Api*, const Info*, void**);
  Status* (*try_compute)(void*, Context*);
  Status* (*infer_shape)(const Operator*, void*);
  int (*first_version)(const Operator*);
  int (*last_version)(const Operator*);
  size_t (*may_inplace)(int**, int**);
  void (*release_may_inplace)(int*, int*);
  size_t (*aliases)(int**, int**);
  void (*release_aliases)(int*, int*);
};

// A function of the table by its place.
template <class Function>
Function at(const Api* api, size_t place) {
  return reinterpret_cast<Function>(reinterpret_cast<void* const*>(api)[place]);
}

inline Status* fail(const Api* api, int code, const char* message) {
  return at<Status* (*)(int, const char*)>(api, 0)(code, message);
}
inline Status* new_domain(const Api* api, const char* name, Domain** domain) {
  return at<Status* (*)(const char*, Domain**)>(api, 26)(name, domain);
}
inline Status* add_operator(const Api* api, Domain* domain, const Operator* one) {
  return at<Status* (*)(Domain*, const Operator*)>(api, 27)(domain, one);
}
inline Status* add_domain(const Api* api, Options* options, Domain* domain) {
  return at<Status* (*)(Options*, Domain*)>(api, 28)(options, domain);
}
inline Status* data_of(const Api* api, const Value* value, void** data) {
  return at<Status* (*)(const Value*, void**)>(api, 51)(value, data);
}
inline Status* type_of(const Api* api, const Shape* shape, int* type) {
  return at<Status* (*)(const Shape*, int*)>(api, 60)(shape, type);
}
inline Status* rank_of(const Api* api, const Shape* shape, size_t* rank) {
  return at<Status* (*)(const Shape*, size_t*)>(api, 61)(shape, rank);
}
inline Status* sizes_of(const Api* api, const Shape* shape, int64_t* sizes, size_t rank) {
  return at<Status* (*)(const Shape*, int64_t*, size_t)>(api, 62)(shape, sizes, rank);
}
inline Status* shape_of(const Api* api, const Value* value, Shape** shape) {
  return at<Status* (*)(const Value*, Shape**)>(api, 65)(value, shape);
}
inline Status* attribute(const Api* api, const Info* info, const char* name, float* value) {
  return at<Status* (*)(const Info*, const char*, float*)>(api, 85)(info, name, value);
}
inline Status* attribute(const Api* api, const Info* info, const char* name, int64_t* value) {
  return at<Status* (*)(const Info*, const char*, int64_t*)>(api, 86)(info, name, value);
}
inline Status* input(const Api* api, const Context* context, size_t place, const Value** value) {
  return at<Status* (*)(const Context*, size_t, const Value**)>(api, 90)(context, place, value);
}
inline Status* output(const Api* api, Context* context, size_t place, const int64_t* sizes, size_t rank,
                      Value** value) {
  return at<Status* (*)(Context*, size_t, const int64_t*, size_t, Value**)>(api, 91)(context, place, sizes, rank,
                                                                                    value);
}
inline void release(const Api* api, Status* status) { at<void (*)(Status*)>(api, 93)(status); }
inline void release(const Api* api, Shape* shape) { at<void (*)(Shape*)>(api, 99)(shape); }
inline Status* input_count(const Api* api, const Info* info, size_t* count) {
  return at<Status* (*)(const Info*, size_t*)>(api, 230)(info, count);
}
inline Status* constant_input(const Api* api, const Info* info, size_t place, int* constant, const Value** value) {
  return at<Status* (*)(const Info*, size_t, int*, const Value**)>(api, 249)(info, place, constant, value);
}
inline Status* parallel_for(const Api* api, const Context* context, void (*task)(void*, size_t), size_t count,
                            size_t batches, void* data) {
  return at<Status* (*)(const Context*, void (*)(void*, size_t), size_t, size_t, void*)>(api, 274)(
      context, task, count, batches, data);
}

}  // namespace ort
}  // namespace relsdk
