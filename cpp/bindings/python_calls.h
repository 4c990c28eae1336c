// The ways from native code into Python, and out of the GIL, that hold at the end of the process.
//
// Up to Python 3.13 a thread that asks for the GIL while the interpreter finalizes is ended by
// pthread_exit. With glibc that unwinds the stack like an exception: through a destructor or a
// function that is noexcept (nanobind's are) it is std::terminate, SIGABRT in place of the exit
// code 0; and destructors of ours would let go of Python objects without a GIL. So each way into
// Python from where a thread of the user's may be goes through here, and such a thread stands
// still: that is what Python 3.14 does by itself.
#pragma once

#include <Python.h>

#include <chrono>
#include <thread>
#include <utility>

#if defined(__GLIBCXX__) && defined(__linux__) && PY_VERSION_HEX < 0x030E0000
#define TRACELET_THREADS_ARE_UNWOUND 1
#include <cxxabi.h>
#endif

// Such an unwinding has no object that the handler's reference could be bound to; UBSan is not to
// look, and looks where the function is inlined.
#if defined(__SANITIZE_ADDRESS__)
#define TRACELET_NO_NULL_CHECK __attribute__((no_sanitize("null"), noinline))
#else
#define TRACELET_NO_NULL_CHECK
#endif

namespace tracelet::bindings {

// Calls what may run Python code, and so may wait for the GIL.
template <typename Call>
TRACELET_NO_NULL_CHECK auto enter_python(Call call) -> decltype(call()) {
#if defined(TRACELET_THREADS_ARE_UNWOUND)
  try {
    return call();
  } catch (abi::__forced_unwind&) {
    for (;;) std::this_thread::sleep_for(std::chrono::hours(1));  // the process ends in a moment
  }
#else
  return call();
#endif
}

// Gives up the GIL for as long as it lives.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() {
    enter_python([this] { PyEval_RestoreThread(state_); });
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  PyThreadState* state_;
};

}  // namespace tracelet::bindings
