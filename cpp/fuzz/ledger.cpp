// The ledger of the files that grow: opened, read, and gone on with.
#include <stdexcept>
#include <system_error>

#include "fuzz_support.h"
#include "tracelet/file_ledger.h"

using namespace tracelet;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto ledger = FileLedger::open(fuzz::file_with(data, size));
    const auto entries = ledger->entries();
    fuzz::require(entries.size() <= size, "no more entries than bytes");
    for (const auto& entry : entries) {
      fuzz::require(entry.place < size, "an entry is in the file");
      fuzz::require(entry.path.size() <= size, "a path is in the file");
      ledger->acknowledge(entry.place, 17, 4);
    }
    (void)ledger->is_damaged();
    const std::size_t place = ledger->add(7, "another", 3);
    ledger->acknowledge(place, 17, 4);
  } catch (const std::runtime_error&) {
    return 0;  // no ledger (std::system_error is one, too)
  }
  return 0;
}
