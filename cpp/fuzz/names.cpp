// A journal's names, and a ring's tag table, which has no checksums.
#include "fuzz_support.h"
#include "tracelet/stored_names.h"

using namespace tracelet;

namespace {

void check(StoredNames names, std::size_t size) {
  std::size_t sum = 0;
  for (std::uint32_t id = 1; id <= 1000; ++id) sum += names.text(id).size();
  fuzz::require(sum <= size, "no more text than the file has bytes");
  fuzz::require(names.text(0xffffffff).size() <= size, "any id may be asked for");
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes = fuzz::bytes_of(data, size);
  try {
    const StoredNames names = StoredNames::of_names_file(StoredFile::of_bytes("names", bytes));
    fuzz::require(names.whole_bytes() <= size, "the last whole block ends in the file");
    check(names, size);
  } catch (const StoredFileError&) {
    // of a newer version
  }
  check(StoredNames::of_tag_table(bytes, size), size);
  check(StoredNames::of_tag_table(bytes, ~std::uint64_t{0}), size);
  return 0;
}
