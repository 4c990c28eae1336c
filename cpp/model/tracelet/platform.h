// In the place of cpp/tracelet/platform.h for the model checker: each thread is a process.
#pragma once

#include "model.h"

namespace tracelet {

inline std::uint32_t current_pid() { return rl::thread_index() + 1; }
bool process_is_alive(std::uint32_t pid);
// As the kernel does it: the look at the word and the sleep are one step to who wakes. Without the
// timeout, so that a lost wake is a deadlock.
void wait_on(std::model_atomic<std::uint32_t>& word, std::uint32_t expected,
             std::chrono::nanoseconds timeout);
void wake_all(std::model_atomic<std::uint32_t>& word);

}  // namespace tracelet
