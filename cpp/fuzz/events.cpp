// Event files, of anybody's writing, in one call and gone on with.
#include <system_error>

#include "fuzz_support.h"
#include "tracelet/event_reader.h"
#include "tracelet/held_events.h"

using namespace tracelet;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  EventReader reader;
  const std::string path = fuzz::file_with(data, size);
  const std::uint64_t end = reader.read_file(path, 0);
  fuzz::require(end <= size, "what was read is in the file");
  fuzz::require(reader.read_file(path, end) >= end, "a later call goes on");
  for (const TagEvents& events : reader.tags()) {
    fuzz::require(events.scalars.steps.size() == events.scalars.values.size(),
                  "a step for each value");
    fuzz::require(events.texts.steps.size() == events.text_places.size(), "a place for each text");
    for (const ValuePlace& place : events.others.values) {
      fuzz::require(place.offset + place.size_bytes <= size, "what lies in the file is in it");
    }
    for (const StoredHistogram& histogram : events.histograms.values) {
      fuzz::require(histogram.limits.size() <= size, "no more buckets than bytes");
    }
  }
  HeldEvents held;
  const HeldEvents::Found found = held.load(path, 0, 1);
  fuzz::require(found.end_bytes <= size, "the whole part is in the file");
  fuzz::require(found.count <= size / 16, "no more events than there is room for");
  return 0;
}
