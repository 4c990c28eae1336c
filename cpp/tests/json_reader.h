// A strict reading of ClearML events, as lines and as an offline session's arrays. It takes the one
// form that the encoder writes, to the byte, so what passes is JSON.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace tracelet::testing {

struct ParsedEvent {
  std::int64_t step = 0;
  std::string metric;
  std::string variant;
  std::string value;  // as it stands
  std::int64_t timestamp_ms = 0;
};

// Takes pieces off the front of a text; throws std::runtime_error when another one stands there.
class JsonReader {
 public:
  explicit JsonReader(std::string_view text) : rest_(text) {}

  bool at_end() const { return rest_.empty(); }
  bool next_is(std::string_view expected) const { return rest_.starts_with(expected); }
  bool take_if(std::string_view expected) {
    if (!next_is(expected)) return false;
    rest_.remove_prefix(expected.size());
    return true;
  }
  void take(std::string_view expected) {
    if (!take_if(expected)) fail(expected);
  }
  std::int64_t integer() {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (error != std::errc()) fail("an integer");
    rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
    return value;
  }
  // A string without quotes or escapes in it.
  std::string name() {
    take("\"");
    const std::string name(rest_.substr(0, rest_.find('"')));
    rest_.remove_prefix(name.size());
    take("\"");
    return name;
  }
  // -? digits (. digits)? ([eE] [+-]? digits)?, without leading zeros
  std::string number() {
    const std::string_view start = rest_;
    take_if("-");
    const bool leads_with_zero = next_is("0");
    if (take_digits() > 1 && leads_with_zero) fail("no leading zero");
    if (take_if(".")) take_digits();
    if (take_if("e") || take_if("E")) {
      if (!take_if("+")) take_if("-");
      take_digits();
    }
    return std::string(start.substr(0, start.size() - rest_.size()));
  }
  // An event of the task "t".
  ParsedEvent event() {
    ParsedEvent event;
    take("{\"type\":\"training_stats_scalar\",\"task\":\"t\",\"iter\":");
    event.step = integer();
    take(",\"metric\":");
    event.metric = name();
    take(",\"variant\":");
    event.variant = name();
    take(",\"value\":");
    event.value = number();
    take(",\"timestamp\":");
    event.timestamp_ms = integer();
    take("}");
    return event;
  }

 private:
  std::size_t take_digits() {
    const std::size_t count = std::min(rest_.find_first_not_of("0123456789"), rest_.size());
    if (count == 0) fail("digits");
    rest_.remove_prefix(count);
    return count;
  }
  [[noreturn]] void fail(std::string_view expected) const {
    throw std::runtime_error("expected " + std::string(expected) +
                             " at: " + std::string(rest_.substr(0, 80)));
  }

  std::string_view rest_;
};

// The events of encode_lines: divided by line ends, none after the last one.
inline std::vector<ParsedEvent> parse_lines(std::string_view text) {
  std::vector<ParsedEvent> events;
  JsonReader reader(text);
  while (!reader.at_end()) {
    if (!events.empty()) reader.take("\n");
    events.push_back(reader.event());
  }
  return events;
}

// The events of each array line of an offline session's file.
inline std::vector<std::vector<ParsedEvent>> parse_array_lines(std::string_view text) {
  std::vector<std::vector<ParsedEvent>> lines;
  for (JsonReader reader(text); !reader.at_end(); reader.take("]\n")) {
    while (reader.take_if(" ")) continue;  // where a piece was torn
    reader.take("[");
    lines.emplace_back().push_back(reader.event());
    while (reader.take_if(",")) lines.back().push_back(reader.event());
  }
  return lines;
}

}  // namespace tracelet::testing
