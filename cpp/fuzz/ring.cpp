// The ring's file, and what is made of its records.
#include "fuzz_support.h"
#include "tracelet/stored_ring.h"

using namespace tracelet;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const StoredRing ring(StoredFile::of_bytes("ring", fuzz::bytes_of(data, size)));
    fuzz::require(ring.tail() <= ring.head() && ring.head() - ring.tail() <= ring.capacity(),
                  "tail <= head, and no more points than the ring holds");
    for (std::uint64_t position = ring.tail(); position < ring.head();) {
      const StoredRecords part = ring.read(position, 7, 300, ring.names());
      fuzz::require(!part.records.empty(), "a record a call, so that reading ends");
      for (const Record& record : part.records) {
        fuzz::require(record.sequence == ++position, "records without a gap");
      }
      fuzz::use({part.records.data(), part.records.size()},
                {reinterpret_cast<const std::byte*>(part.payloads.data()), part.payloads.size()});
    }
  } catch (const StoredFileError&) {
    return 0;  // refused, with words
  }
  return 0;
}
