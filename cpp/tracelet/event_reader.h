// TensorBoard event files read back: scalars, histograms and texts, by tag, in the order logged.
//
// The format is that of event_file.h; the files may be torch's, TensorFlow's, Keras', tensorboardX'
// or our own, damaged anywhere, and still growing. Scalars are `simple_value`s or tensors
// (tensorboard/compat/proto/summary.proto, tensor.proto); which kind a tensor is, its plugin's name
// tells, which may stand at the first event of a tag alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tracelet {

// A histogram as the file has it: bucket i holds what lies between limits[i - 1] and limits[i].
struct StoredHistogram {
  double min = 0;
  double max = 0;
  double num = 0;
  double sum = 0;
  double sum_squares = 0;
  std::vector<double> limits{};
  std::vector<double> counts{};
};

// Where a value that is no table's lies: the bytes of its Summary.Value in a file.
struct ValuePlace {
  std::uint32_t file;  // which, of EventReader::files()
  std::uint32_t size_bytes;
  std::uint64_t offset;
};

// What was logged under one tag. A tag may have points of each kind.
struct TagEvents {
  template <typename Value>
  struct Points {
    std::vector<std::int64_t> steps{};
    std::vector<double> wall_times{};  // seconds since the epoch
    std::vector<Value> values{};

    void add(std::int64_t step, double wall_time_s, Value value) {
      steps.push_back(step);
      wall_times.push_back(wall_time_s);
      values.push_back(std::move(value));
    }
  };

  std::string tag;
  std::string plugin{};
  Points<double> scalars{};
  Points<StoredHistogram> histograms{};
  Points<std::string> texts{};
  Points<ValuePlace> others{};  // images, audio, hyperparameters and so on
  // Where each text is as well, for who passes it on with all that belongs to it.
  std::vector<ValuePlace> text_places{};
};

// Reads event files into tables. Not thread-safe.
class EventReader {
 public:
  // Reads what `path` holds from `position` on, whole records only, and returns the position behind
  // them: what a later call, of a file that has grown, begins with. Throws std::system_error.
  std::uint64_t read_file(const std::string& path, std::uint64_t position);

  const std::vector<TagEvents>& tags() const { return tags_; }
  // Records left out: their checksum is wrong, or they are no event. Where the length itself is
  // damaged, the bytes up to the next record count as one.
  std::uint64_t damaged_records() const { return damaged_records_; }
  // Events with a graph or a profile in the place of a summary: they have no tag.
  std::uint64_t graphs() const { return graphs_; }
  // The files that were read, in the order in which they were first.
  const std::vector<std::string>& files() const { return files_; }

 private:
  std::size_t read_records(std::string_view bytes, bool reaches_end);
  bool read_event(std::string_view event);
  bool read_summary(std::string_view summary, std::int64_t step, double wall_time_s);
  bool read_value(std::string_view value, std::int64_t step, double wall_time_s);
  TagEvents& events_of(std::string_view tag);
  ValuePlace place_of(std::string_view value) const;

  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  std::vector<TagEvents> tags_;
  std::unordered_map<std::string, std::size_t, Hash, std::equal_to<>> places_;
  // The tag that came after each the last time: training loops log the same tags in turn.
  std::vector<std::size_t> successors_;
  std::size_t last_place_ = 0;
  std::vector<std::string> files_;
  // What is being read: which file, and where in it the chunk lies that the views are of.
  std::uint32_t file_ = 0;
  const char* chunk_ = nullptr;
  std::uint64_t chunk_offset_ = 0;
  std::uint64_t damaged_records_ = 0;
  std::uint64_t graphs_ = 0;
  bool is_in_damage_ = false;
};

}  // namespace tracelet
