// Writes the fuzzers' first inputs, one of each kind of file as it is today: make_seeds FOLDER.
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>

#include "tracelet/crc32c.h"
#include "tracelet/event_file.h"
#include "tracelet/event_file_set.h"
#include "tracelet/file_ledger.h"
#include "tracelet/ring_file.h"
#include "tracelet/stored_names.h"

using namespace tracelet;

namespace {

std::string raw(std::uint32_t value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

std::string read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string names_file() {
  const std::string head = "TRCLNAME" + raw(1);
  const std::string content = raw(4) + "loss" + raw(6) + "runs/a";
  const std::string block = "NBLK" + raw(1) + raw(2) +
                            raw(static_cast<std::uint32_t>(content.size())) +
                            raw(crc32c(content.data(), content.size()));
  return head + raw(crc32c(head.data(), head.size())) + block +
         raw(crc32c(block.data(), block.size())) + content;
}

// A ring with 20 points in it, each fourth with a payload; returns their records as in a journal.
std::string make_ring(const std::string& path, const std::string& events) {
  const auto file = RingFile::create(path, 64);
  file->tags().intern("loss");
  file->tags().intern("runs/a");
  for (std::int64_t step = 0; step < 20; ++step) {
    Point point{.value = 0.5, .step = step, .tag_id = 1, .writer_id = 2};
    if (step % 4 == 3) {
      point.kind = RecordKind::kEvent;
      const std::string payload(static_cast<std::size_t>(step), '.');
      file->payloads().try_push(file->ring(), point, std::as_bytes(std::span(payload)));
    } else {
      file->ring().try_push(point);
    }
  }
  const RecordSpan records = file->ring().committed(20);
  StoredNames names;
  names.add(1, "loss");
  names.add(2, "runs/a");
  EventFileSet files(&names);
  files.open(2, events, 1.5);
  files.write({records.data, 3}, {});
  const auto* bytes = reinterpret_cast<const char*>(records.data);
  return static_cast<char>(records.size) + std::string(bytes, records.size * sizeof(Record)) +
         std::string(256, '.');
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  const std::string folder = std::string(arguments[1]) + "/";
  for (const char* kind : {"ring", "names", "records", "ledger", "events"}) {
    std::filesystem::create_directories(folder + kind);
  }
  std::filesystem::remove(folder + "ring/seed");
  std::filesystem::remove(folder + "ledger/seed");
  write(folder + "names/seed", names_file());
  write(folder + "records/seed", make_ring(folder + "ring/seed", folder + "events/seed"));
  const auto ledger = FileLedger::create(folder + "ledger/seed");
  ledger->acknowledge(ledger->add(2, "logs/events", 0), 100, 3);
  return read(folder + "events/seed").empty() ? 1 : 0;
}
