// What is in a writer's event files that a dead process left, where the ledger does not tell it for
// certain: after a loss of power, or when a file or the ledger was damaged. Its records are given
// once more, and an event that is there already, byte for byte, is not written again.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tracelet {

class HeldEvents {
 public:
  struct Found {
    std::uint64_t end_bytes = 0;  // the file is whole up to here
    std::uint32_t count = 0;      // points found, without the event that begins a file
  };

  // Takes up the whole events of `path` from a byte on at which one begins. `until_sequence`: the
  // last record that a file which may lack some had; 0 for a file that lacks none. One that is not
  // there lacks all. Throws std::system_error.
  Found load(const std::string& path, std::uint64_t from_bytes, std::uint64_t until_sequence);

  // Whether the event, of the record with that sequence, is there, as often as it was asked for.
  bool take(std::string_view event, std::uint64_t sequence);
  // What was taken since is there for good, or is asked for again.
  void commit();
  void put_back();

  // Records that a file which lacks some had, and that are to be found elsewhere now.
  std::uint32_t restored() const { return restored_; }

 private:
  // By the hash of an event: how many there are.
  using Counts = std::unordered_map<std::uint64_t, std::uint32_t>;
  struct Taken {
    Counts* from;
    std::uint64_t hash;
  };

  Counts in_damaged_;
  Counts in_others_;
  std::uint64_t until_sequence_ = 0;
  std::uint32_t restored_ = 0;
  // Since the last commit.
  std::vector<Taken> taken_;
  std::uint32_t newly_restored_ = 0;
};

}  // namespace tracelet
