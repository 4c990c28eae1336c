// What stands in the place of the standard library's atomics when the core is compiled for Relacy,
// which tries interleavings and, for each load, the values that C++'s memory model lets it see:
// also those that no x86-64 shows, and few arm64. Included before the core's own headers.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <iostream>
#include <source_location>
#include <span>
#include <string>
#include <thread>
#include <vector>

// clang-format off: after what its macros would change.
#include <relacy/relacy.hpp>
// clang-format on

// Relacy's own macros would change the core's words.
#undef memory_order_relaxed
#undef memory_order_consume
#undef memory_order_acquire
#undef memory_order_release
#undef memory_order_acq_rel
#undef memory_order_seq_cst
#undef new
#undef delete
#undef malloc
#undef calloc
#undef realloc
#undef free
#undef assert
#undef errno

namespace tracelet::model {

// An atomic of the model's own, as against the core's.
template <typename T>
using Word = rl::atomic<T>;

// A place in the core where an atomic is used with an order. No allocation: the checker takes
// operator new for the program's own.
struct Site {
  const char* file;
  const char* function;
  unsigned line;
  const char* operation;
  std::memory_order order;
};
inline constexpr int kMostSites = 200;
inline Site sites[kMostSites];
inline int site_count = 0;
// The site whose order is weakened, to see that the model finds it out: -1 for none. To relaxed, or
// from sequentially consistent to acquire and release.
inline int weakened_site = -1;
inline bool is_weakened_to_relaxed = true;

inline std::memory_order order_at(std::memory_order order, const char* operation,
                                  const std::source_location& where) {
  int at = 0;
  while (at < site_count && !(sites[at].line == where.line() && sites[at].operation == operation &&
                              std::strcmp(sites[at].file, where.file_name()) == 0)) {
    ++at;
  }
  if (at == site_count) {
    if (site_count == kMostSites) std::abort();
    sites[site_count++] = {where.file_name(), where.function_name(), where.line(), operation,
                           order};
  }
  if (at != weakened_site) return order;
  if (is_weakened_to_relaxed) return std::memory_order_relaxed;
  if (operation[0] == 'l') return std::memory_order_acquire;
  if (operation[0] == 's') return std::memory_order_release;
  return std::memory_order_acq_rel;
}

inline rl::memory_order as_relacys(std::memory_order order) {
  switch (order) {
    case std::memory_order_relaxed:
      return rl::mo_relaxed;
    case std::memory_order_consume:
    case std::memory_order_acquire:
      return rl::mo_acquire;
    case std::memory_order_release:
      return rl::mo_release;
    case std::memory_order_acq_rel:
      return rl::mo_acq_rel;
    case std::memory_order_seq_cst:
      break;
  }
  return rl::mo_seq_cst;
}

// Memory that is no atomic: a read or write that another is not ordered with is an error.
template <typename T>
class Plain {
 public:
  Plain& operator=(T value) {
    value_($) = static_cast<Stored>(value);
    return *this;
  }
  operator T() const { return static_cast<T>(Stored{value_($)}); }

 private:
  // The checker prints what it stores.
  using Stored = typename std::conditional_t<std::is_enum_v<T>, std::underlying_type<T>,
                                             std::type_identity<T>>::type;
  rl::var<Stored> value_;
};

}  // namespace tracelet::model

namespace std {

template <typename T>
class model_atomic {
 public:
  using Where = std::source_location;

  T load(memory_order order = memory_order::seq_cst, Where where = Where::current()) const {
    return inner_.load(given(order, "load", where), $);
  }
  void store(T value, memory_order order = memory_order::seq_cst, Where where = Where::current()) {
    inner_.store(value, given(order, "store", where), $);
  }
  T exchange(T value, memory_order order = memory_order::seq_cst, Where where = Where::current()) {
    return inner_.exchange(value, given(order, "exchange", where), $);
  }
  T fetch_add(T value, memory_order order = memory_order::seq_cst, Where where = Where::current()) {
    return inner_.fetch_add(value, given(order, "fetch_add", where), $);
  }
  T fetch_sub(T value, memory_order order = memory_order::seq_cst, Where where = Where::current()) {
    return inner_.fetch_sub(value, given(order, "fetch_sub", where), $);
  }
  T fetch_or(T value, memory_order order = memory_order::seq_cst, Where where = Where::current()) {
    return inner_.fetch_or(value, given(order, "fetch_or", where), $);
  }
  bool compare_exchange_strong(T& expected, T value, memory_order order,
                               Where where = Where::current()) {
    return inner_.compare_exchange_strong(expected, value, given(order, "exchange_if", where), $,
                                          rl::mo_relaxed, $);
  }
  // All that the core has fail relaxed. Who fails lets others go on: it is called in loops.
  bool compare_exchange_weak(T& expected, T value, memory_order order, memory_order,
                             Where where = Where::current()) {
    if (inner_.compare_exchange_weak(expected, value, given(order, "exchange_if", where), $,
                                     rl::mo_relaxed, $)) {
      return true;
    }
    rl::yield(1, $);
    return false;
  }

 private:
  static rl::memory_order given(memory_order order, const char* operation, const Where& where) {
    return tracelet::model::as_relacys(tracelet::model::order_at(order, operation, where));
  }

  tracelet::model::Word<T> inner_;
};

template <typename T>
class model_atomic_ref {
 public:
  explicit model_atomic_ref(model_atomic<T>& word) : word_(word) {}
  using Where = std::source_location;
  T load(memory_order order, Where where = Where::current()) { return word_.load(order, where); }
  void store(T value, memory_order order, Where where = Where::current()) {
    word_.store(value, order, where);
  }
  bool compare_exchange_strong(T& expected, T value, memory_order order,
                               Where where = Where::current()) {
    return word_.compare_exchange_strong(expected, value, order, where);
  }

 private:
  model_atomic<T>& word_;
};

void* model_memcpy(void* to, const void* from, size_t size_bytes);

namespace this_thread {
template <typename Duration>
void model_sleep_for(Duration) {
  rl::yield(1, $);
}
}  // namespace this_thread

}  // namespace std

#define atomic model_atomic
#define atomic_ref model_atomic_ref
#define memcpy model_memcpy
#define sleep_for model_sleep_for
