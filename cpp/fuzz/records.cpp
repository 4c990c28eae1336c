// The records and payloads of a journal's block: a checksum that holds says nothing of what a
// damaged process put under it.
#include <cstring>

#include "fuzz_support.h"
#include "tracelet/record_check.h"

using namespace tracelet;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  StoredNames names;
  names.add(1, "loss");
  names.add(2, "runs/a");
  // The first byte says how many of what follows are records.
  const std::size_t count = std::min<std::size_t>(data[0], (size - 1) / sizeof(Record));
  std::vector<Record> records(count);
  if (count != 0) std::memcpy(records.data(), data + 1, count * sizeof(Record));
  const std::string payloads =
      fuzz::bytes_of(data + 1 + count * sizeof(Record), size - 1 - count * sizeof(Record));
  CheckedRecords checked = check_records({records.data(), count}, names, payloads.size());
  if (!checked.records.empty()) {
    fuzz::require(checked.records.size() == count, "a record with a fault keeps its place");
    records = std::move(checked.records);
  }
  for (const Record& record : records) {
    fuzz::require(record.kind == RecordKind::kSkipped ||
                      fault_of(record, names, payloads.size()) == RecordFault::kNone,
                  "what is left has no fault");
  }
  fuzz::use({records.data(), count},
            {reinterpret_cast<const std::byte*>(payloads.data()), payloads.size()});
  return 0;
}
