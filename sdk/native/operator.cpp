// The operator `relsdk.Encoder` of onnxruntime: reads its weights when a session is made, checks what it is given,
// and lets the kernels of the best instruction set compute.
#include "encoder.h"
#include "onnxruntime_abi.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(RELSDK_AVX_VNNI)
#include <cpuid.h>
#endif

#if defined(_WIN32)
#define RELSDK_EXPORT extern "C" __declspec(dllexport)
#else
#define RELSDK_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace relsdk {

float* grow(Arena& arena, size_t count) {
  if (arena.size() < count) arena.resize(count);
  return arena.data();
}

namespace {

// Tokens of one chunk: enough to use a weight often, few enough to stay in the cache and to share among threads.
constexpr size_t kChunkTokens = 64;
constexpr size_t kArenas = 16;  // kept for the next runs

struct InstructionSet {
  const char* name;
  bool (*available)();
  Encode encode;
  int stored_less;  // see simd.h
};

#if defined(RELSDK_AVX_VNNI)
// Asked of the CPU itself: Clang 14's __builtin_cpu_supports does not know it.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1U << 4)) != 0;
}
#endif

// Best first.
const InstructionSet kSets[] = {
#if defined(__x86_64__) || defined(_M_X64)
    {"avx512_vnni",
     [] {
       return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
     },
     avx512_vnni::encode, 0},
#if defined(RELSDK_AVX_VNNI)
    {"avx_vnni", has_avx_vnni, avx_vnni::encode, 0},
#endif
    {"avx2", [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, avx2::encode, 0},
#elif defined(__aarch64__)
    {"neon_dotprod",
     [] {
#if defined(__linux__)
       return (getauxval(AT_HWCAP) & (1UL << 20)) != 0;  // ASIMDDP
#else
       return true;
#endif
     },
     neon_dotprod::encode, 128},
#endif
    {nullptr, nullptr, nullptr, 0},
};

const InstructionSet* best_set() {
#if defined(__x86_64__) || defined(_M_X64)
  __builtin_cpu_init();  // this runs before main, where not every compiler has asked the CPU
#endif
  for (const InstructionSet* set = kSets; set->name != nullptr; ++set)
    if (set->available()) return set;
  return nullptr;
}

const InstructionSet* chosen = best_set();

// Turns a status into an exception, so that it cannot be forgotten.
class Calls {
 public:
  explicit Calls(const ort::Api* api) : api(api) {}

  void operator()(ort::Status* status) const {
    if (status == nullptr) return;
    const std::string message = ort::at<const char* (*)(const ort::Status*)>(api, 2)(status);
    ort::release(api, status);
    throw std::runtime_error(message);
  }

  const ort::Api* api;
};

struct Tensor {
  const void* data = nullptr;
  int type = 0;
  std::vector<int64_t> sizes;
};

Tensor read(const Calls& calls, const ort::Value* value) {
  Tensor tensor;
  ort::Shape* shape = nullptr;
  calls(ort::shape_of(calls.api, value, &shape));
  size_t rank = 0;
  ort::Status* status = ort::type_of(calls.api, shape, &tensor.type);
  if (status == nullptr) status = ort::rank_of(calls.api, shape, &rank);
  if (status == nullptr) {
    tensor.sizes.resize(rank);
    status = ort::sizes_of(calls.api, shape, tensor.sizes.data(), rank);
  }
  ort::release(calls.api, shape);
  calls(status);
  void* data = nullptr;
  calls(ort::data_of(calls.api, value, &data));
  tensor.data = data;
  return tensor;
}

// Takes an operator's constant inputs in their order.
class Weights {
 public:
  Weights(const Calls& calls, const ort::Info* info, size_t next) : calls_(calls), info_(info), next_(next) {
    calls_(ort::input_count(calls.api, info, &count_));
  }

  bool at_end() const { return next_ == count_; }

  Tensor take(int type) {
    int constant = 0;
    const ort::Value* value = nullptr;
    if (at_end()) throw std::invalid_argument("there are too few inputs");
    calls_(ort::constant_input(calls_.api, info_, next_, &constant, &value));
    if (!constant || value == nullptr) refuse("is not constant");
    Tensor tensor = read(calls_, value);
    if (tensor.type != type) refuse("is of another type");
    ++next_;
    return tensor;
  }

  const float* floats(int64_t size) {
    const Tensor tensor = take(ort::kFloat);
    if (tensor.sizes != std::vector<int64_t>{size}) refuse_last("is of another shape");
    return static_cast<const float*>(tensor.data);
  }

  Product product(int rows, int width, int zero_point) {
    const Tensor tensor = take(ort::kInt8);
    if (tensor.sizes != std::vector<int64_t>{width / kBlock, rows / 4, kBlock, 4}) refuse_last("is of another shape");
    Product product;
    product.weights = static_cast<const int8_t*>(tensor.data);
    product.rows = rows;
    product.width = width;
    product.columns = floats(width);
    product.bias = floats(width);
    product.start.resize(width);
    int largest = 0;
    for (int block = 0; block < width / kBlock; ++block) {
      int32_t sums[kBlock] = {};
      const int8_t* at = product.weights + static_cast<size_t>(block) * rows * kBlock;
      for (int step = 0; step < rows / 4; ++step, at += 4 * kBlock)
        for (int i = 0; i < kBlock; ++i)
          for (int j = 0; j < 4; ++j) {
            const int weight = at[i * 4 + j];
            sums[i] += weight;
            largest = std::max(largest, std::abs(weight));
          }
      for (int i = 0; i < kBlock; ++i)
        product.start[block * kBlock + i] = (chosen->stored_less - zero_point) * sums[i];
    }
    product.narrow = 2 * 255 * largest <= 32767;
    return product;
  }

  Table table(int width) {
    const Tensor rows = take(ort::kInt8);
    if (rows.sizes.size() != 2 || rows.sizes[1] != width) refuse_last("is of another shape");
    const Tensor scales = take(ort::kFloat);
    if (scales.sizes != std::vector<int64_t>{rows.sizes[0], 1}) refuse_last("is of another shape");
    return {static_cast<const int8_t*>(rows.data), static_cast<const float*>(scales.data), rows.sizes[0]};
  }

  Norm norm(int width, bool with_units) {
    Norm norm;
    norm.gain = floats(width);
    norm.bias = floats(width);
    if (with_units) {
      norm.unit_gain = floats(width);
      norm.unit_bias = floats(width);
    }
    return norm;
  }

 private:
  [[noreturn]] void refuse(const char* reason) const {
    throw std::invalid_argument("input " + std::to_string(next_) + " " + reason);
  }
  [[noreturn]] void refuse_last(const char* reason) {
    --next_;
    refuse(reason);
  }

  const Calls& calls_;
  const ort::Info* info_;
  size_t next_, count_ = 0;
};

int64_t whole(const Calls& calls, const ort::Info* info, const char* name, int64_t least, int64_t most) {
  int64_t value = 0;
  calls(ort::attribute(calls.api, info, name, &value));
  if (value < least || value > most) throw std::invalid_argument(std::string("attribute ") + name + " is out of range");
  return value;
}

constexpr size_t kFirstWeight = 3;
constexpr int64_t kWidest = 1 << 16;  // sums of so many products fit 32 bits

Encoder read_encoder(const Calls& calls, const ort::Info* info) {
  Encoder encoder;
  encoder.width = static_cast<int>(whole(calls, info, "width", kBlock, kWidest));
  encoder.inner = static_cast<int>(whole(calls, info, "inner", kBlock, kWidest));
  encoder.heads = static_cast<int>(whole(calls, info, "heads", 1, encoder.width));
  encoder.relu = whole(calls, info, "relu", 0, 1) != 0;
  encoder.padding = whole(calls, info, "padding", -1, INT64_MAX / 2);
  calls(ort::attribute(calls.api, info, "epsilon", &encoder.epsilon));
  calls(ort::attribute(calls.api, info, "lowest", &encoder.lowest));
  const int64_t layers = whole(calls, info, "layers", 1, 1 << 12);
  if (encoder.width % encoder.heads != 0 || encoder.width / encoder.heads % kBlock != 0 || encoder.inner % kBlock != 0)
    throw std::invalid_argument("widths are no multiples of 16");
  Weights weights(calls, info, kFirstWeight);
  const int width = encoder.width, inner = encoder.inner;
  encoder.words = weights.table(width);
  encoder.types = weights.table(width);
  encoder.positions = weights.table(width);
  encoder.embedding = weights.norm(width, true);
  for (int64_t number = 0; number < layers; ++number) {
    Layer layer;
    layer.attention = weights.product(width, 3 * width, 128);
    layer.output = weights.product(width, width, 128);
    layer.middle = weights.norm(width, true);
    layer.up = weights.product(width, inner, 128);
    layer.inverse = weights.floats(inner);
    layer.down = weights.product(inner, width, 0);
    layer.end = weights.norm(width, number + 1 < layers);
    encoder.layers.push_back(std::move(layer));
  }
  if (!weights.at_end()) throw std::invalid_argument("there are too many inputs");
  return encoder;
}

class Kernel {
 public:
  Kernel(const ort::Api* api, const ort::Info* info)
      : calls_(api), encode_(chosen->encode), encoder_(read_encoder(calls_, info)) {}

  const ort::Api* api() const { return calls_.api; }

  void compute(ort::Context* context) {
    const Tensor ids = given(context, 0), mask = given(context, 1), types = given(context, 2);
    if (ids.sizes.size() != 2 || mask.sizes != ids.sizes)
      throw std::invalid_argument("input_ids and attention_mask are not of one shape (B, T)");
    const size_t texts = ids.sizes[0], length = ids.sizes[1];
    const bool one_type = types.sizes == std::vector<int64_t>{1, 1};
    if (!one_type && types.sizes != ids.sizes)
      throw std::invalid_argument("token_type_ids and input_ids are not of one shape");
    const std::vector<Chunk> chunks = cut(static_cast<const int64_t*>(ids.data), static_cast<const int64_t*>(mask.data),
                                          static_cast<const int64_t*>(types.data), one_type, texts, length);
    const int64_t sizes[] = {ids.sizes[0], ids.sizes[1], encoder_.width};
    ort::Value* value = nullptr;
    calls_(ort::output(calls_.api, context, 0, sizes, 3, &value));
    void* data = nullptr;
    calls_(ort::data_of(calls_.api, value, &data));
    float* hidden = static_cast<float*>(data);
    const auto* real = static_cast<const int64_t*>(mask.data);
    for (size_t place = 0; place < texts * length; ++place)
      if (real[place] == 0) std::memset(hidden + place * encoder_.width, 0, encoder_.width * sizeof(float));
    run(context, chunks, hidden);
  }

 private:
  Tensor given(const ort::Context* context, size_t place) const {
    const ort::Value* value = nullptr;
    calls_(ort::input(calls_.api, context, place, &value));
    Tensor tensor = read(calls_, value);
    if (tensor.type != ort::kInt64) throw std::invalid_argument("ids, mask and types are to be int64");
    return tensor;
  }

  std::vector<Chunk> cut(const int64_t* ids, const int64_t* mask, const int64_t* types, bool one_type, size_t texts,
                         size_t length) const {
    std::vector<Chunk> chunks;
    for (size_t text = 0; text < texts; ++text) {
      if (chunks.empty() || chunks.back().tokens.size() >= kChunkTokens) {
        chunks.emplace_back();
        chunks.back().tokens.reserve(kChunkTokens + length);
      }
      Chunk& chunk = chunks.back();
      const size_t before = chunk.tokens.size();
      int64_t counted = 0;
      for (size_t t = 0; t < length; ++t) {
        const size_t place = text * length + t;
        const int64_t id = ids[place], type = types[one_type ? 0 : place];
        counted += id != encoder_.padding;
        if (mask[place] == 0) continue;
        int64_t position = static_cast<int64_t>(t);
        if (encoder_.padding >= 0) position = encoder_.padding + (id != encoder_.padding ? counted : 0);
        check("input_ids", id, encoder_.words);
        check("token_type_ids", type, encoder_.types);
        check("positions", position, encoder_.positions);
        chunk.tokens.push_back({id, type, position, place});
      }
      if (chunk.tokens.size() > before) chunk.ends.push_back(chunk.tokens.size());
    }
    return chunks;
  }

  static void check(const char* name, int64_t id, const Table& table) {
    if (id < 0 || id >= table.count)
      throw std::invalid_argument(std::string(name) + " holds " + std::to_string(id) + "; there are rows 0 to " +
                                  std::to_string(table.count - 1));
  }

  struct Job {
    Kernel* kernel;
    const std::vector<Chunk>* chunks;
    float* hidden;
    ort::Context* context;
    std::exception_ptr error;
    std::mutex lock;
  };

  void run(ort::Context* context, const std::vector<Chunk>& chunks, float* hidden) {
    Job job{this, &chunks, hidden, context, nullptr, {}};
    if (chunks.size() == 1) {  // all threads share the one
      Threads threads{&Kernel::share, &job};
      encode_one(chunks[0], threads, hidden);
    } else if (!chunks.empty()) {
      calls_(ort::parallel_for(calls_.api, context, &Kernel::encode_at, chunks.size(), 0, &job));
    }
    if (job.error) std::rethrow_exception(job.error);
  }

  static void encode_at(void* data, size_t number) {
    Job& job = *static_cast<Job*>(data);
    try {
      job.kernel->encode_one((*job.chunks)[number], Threads{nullptr, nullptr}, job.hidden);
    } catch (...) {
      const std::lock_guard<std::mutex> guard(job.lock);
      job.error = std::current_exception();
    }
  }

  static void share(void* self, size_t count, void (*task)(void*, size_t), void* data) {
    const Job& job = *static_cast<Job*>(self);
    const Calls& calls = job.kernel->calls_;
    calls(ort::parallel_for(calls.api, job.context, task, count, 0, data));
  }

  void encode_one(const Chunk& chunk, const Threads& threads, float* hidden) {
    if (chunk.tokens.empty()) return;
    std::unique_ptr<Arena> arena;
    {
      const std::lock_guard<std::mutex> guard(lock_);
      if (!arenas_.empty()) {
        arena = std::move(arenas_.back());
        arenas_.pop_back();
      }
    }
    if (!arena) arena = std::make_unique<Arena>();
    encode_(encoder_, chunk, threads, *arena, hidden);
    const std::lock_guard<std::mutex> guard(lock_);
    if (arenas_.size() < kArenas) arenas_.push_back(std::move(arena));
  }

  const Calls calls_;
  const Encode encode_;
  const Encoder encoder_;
  std::mutex lock_;
  std::vector<std::unique_ptr<Arena>> arenas_;  // of runs that ended
};

ort::Status* create(const ort::Operator*, const ort::Api* api, const ort::Info* info, void** kernel) {
  try {
    *kernel = new Kernel(api, info);
    return nullptr;
  } catch (const std::exception& error) {
    return ort::fail(api, ort::kInvalidArgument, (std::string("relsdk.Encoder: ") + error.what()).c_str());
  } catch (...) {
    return ort::fail(api, ort::kFail, "relsdk.Encoder: an error without a message");
  }
}

ort::Status* compute(void* kernel, ort::Context* context) {
  auto* self = static_cast<Kernel*>(kernel);
  try {
    self->compute(context);
    return nullptr;
  } catch (const std::exception& error) {
    return ort::fail(self->api(), ort::kFail, (std::string("relsdk.Encoder: ") + error.what()).c_str());
  } catch (...) {
    return ort::fail(self->api(), ort::kFail, "relsdk.Encoder: an error without a message");
  }
}

ort::Operator describe() {
  ort::Operator one{};
  one.version = ort::kVersion;
  one.name = [](const ort::Operator*) { return "Encoder"; };
  one.provider = [](const ort::Operator*) -> const char* { return nullptr; };  // the CPU
  one.input_type = [](const ort::Operator*, size_t) { return ort::kAny; };
  one.input_count = [](const ort::Operator*) -> size_t { return 1; };
  one.output_type = [](const ort::Operator*, size_t) { return ort::kFloat; };
  one.output_count = [](const ort::Operator*) -> size_t { return 1; };
  one.destroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  one.input_characteristic = [](const ort::Operator*, size_t) { return ort::kVariadic; };
  one.output_characteristic = [](const ort::Operator*, size_t) { return ort::kRequired; };
  one.input_memory = [](const ort::Operator*, size_t) { return 0; };
  one.variadic_input_least = [](const ort::Operator*) { return 1; };
  one.variadic_input_same = [](const ort::Operator*) { return 0; };
  one.variadic_output_least = [](const ort::Operator*) { return 1; };
  one.variadic_output_same = [](const ort::Operator*) { return 1; };
  one.try_create = create;
  one.try_compute = compute;
  one.first_version = [](const ort::Operator*) { return 1; };
  one.last_version = [](const ort::Operator*) { return 1; };
  one.may_inplace = [](int**, int**) -> size_t { return 0; };
  one.release_may_inplace = [](int*, int*) {};
  one.aliases = [](int**, int**) -> size_t { return 0; };
  one.release_aliases = [](int*, int*) {};
  return one;
}

}  // namespace
}  // namespace relsdk

// What relsdk's Python part asks before it uses the library.
RELSDK_EXPORT int relsdk_version() { return 1; }

// The instruction set of sessions that are made from now on; null where this CPU has none that is known.
RELSDK_EXPORT const char* relsdk_instruction_set() {
  return relsdk::chosen == nullptr ? nullptr : relsdk::chosen->name;
}

// Chooses another that this CPU has; returns whether it has it. For tests.
RELSDK_EXPORT int relsdk_choose_instruction_set(const char* name) {
  for (const relsdk::InstructionSet* set = relsdk::kSets; set->name != nullptr; ++set)
    if (std::strcmp(set->name, name) == 0 && set->available()) {
      relsdk::chosen = set;
      return 1;
    }
  return 0;
}

// What onnxruntime calls of a library with operators.
RELSDK_EXPORT relsdk::ort::Status* RegisterCustomOps(relsdk::ort::Options* options, const relsdk::ort::Base* base) {
  namespace ort = relsdk::ort;
  const ort::Api* api = base->get_api(ort::kVersion);
  if (api == nullptr) return nullptr;  // an onnxruntime too old to say so; relsdk checks its version
  if (relsdk::chosen == nullptr) return ort::fail(api, ort::kFail, "relsdk: this CPU has no instruction set that is known");
  static const ort::Operator encoder = relsdk::describe();
  static ort::Domain* domain = nullptr;
  static std::mutex lock;
  const std::lock_guard<std::mutex> guard(lock);
  if (domain == nullptr) {
    ort::Domain* made = nullptr;
    ort::Status* status = ort::new_domain(api, "relsdk", &made);
    if (status == nullptr) status = ort::add_operator(api, made, &encoder);
    if (status != nullptr) return status;
    domain = made;
  }
  return ort::add_domain(api, options, domain);
}
