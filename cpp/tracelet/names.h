// Where the strings behind the ids of records are: a living run's tag table, or what a dead one
// left.
#pragma once

#include <cstdint>
#include <string_view>

namespace tracelet {

// Ids are below this: what is made as long as the greatest id has a bound, whatever a damaged
// record says. A tag table that is so long takes no more.
inline constexpr std::uint32_t kMostNames = 1U << 24;

class Names {
 public:
  // The string of an id, good as long as the names; empty for an unknown id.
  virtual std::string_view text(std::uint32_t id) = 0;
  // The greatest id there is.
  virtual std::uint32_t size() = 0;

 protected:
  ~Names() = default;
};

}  // namespace tracelet
