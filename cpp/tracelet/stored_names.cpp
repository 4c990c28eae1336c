#include "tracelet/stored_names.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "tracelet/crc32c.h"

namespace tracelet {
namespace {

// As python/tracelet/journal/names.py writes it.
constexpr std::string_view kFileMagic = "TRCLNAME";
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kFileHeaderBytes = 16;
constexpr std::string_view kBlockMagic = "NBLK";
constexpr std::size_t kBlockHeaderBytes = 24;
// The tag table's address space; a names file has a header for each drain besides.
constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 31;

std::uint32_t u32_at(std::string_view bytes, std::size_t offset) {
  std::uint32_t value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

bool is_utf8(std::string_view text) {
  const auto* at = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = at + text.size();
  while (at < end) {
    const unsigned char first = *at++;
    if (first < 0x80) continue;
    const int more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : 1;
    if (first < 0xc2 || first > 0xf4 || end - at < more) return false;
    // The shortest form, no surrogate, nothing beyond U+10FFFF: told by the second byte.
    const unsigned char least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    const unsigned char most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    if (*at < least || *at > most) return false;
    for (int i = 1; i < more; ++i) {
      if ((at[i] & 0xc0) != 0x80) return false;
    }
    at += more;
  }
  return true;
}

struct Block {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  std::string_view content;
};

// The block at `offset`; false for what is none, or damaged.
bool read_block(std::string_view bytes, std::size_t offset, Block& block) {
  if (bytes.size() - offset < kBlockHeaderBytes) return false;
  const std::string_view header = bytes.substr(offset, kBlockHeaderBytes);
  if (!header.starts_with(kBlockMagic)) return false;
  constexpr std::size_t kChecked = kBlockHeaderBytes - sizeof(std::uint32_t);
  if (u32_at(header, kChecked) != crc32c(header.data(), kChecked)) return false;
  const std::size_t size_bytes = u32_at(header, 12);
  if (size_bytes > bytes.size() - offset - kBlockHeaderBytes) return false;
  block = {u32_at(header, 4), u32_at(header, 8),
           bytes.substr(offset + kBlockHeaderBytes, size_bytes)};
  return crc32c(block.content.data(), size_bytes) == u32_at(header, 16);
}

void add_block(const Block& block, StoredNames& names) {
  std::string_view rest = block.content;
  for (std::uint32_t i = 0; i < block.count && rest.size() >= sizeof(std::uint32_t); ++i) {
    const std::size_t length = u32_at(rest, 0);
    rest.remove_prefix(sizeof(std::uint32_t));
    if (length > rest.size()) return;
    names.add(block.first + i, rest.substr(0, length));
    rest.remove_prefix(length);
  }
}

}  // namespace

void StoredNames::add(std::uint32_t id, std::string_view text) {
  // Ids count from 1. Of two strings of one id the first counts: ids are never given anew.
  if (id == 0 || id >= kMostNames || !is_utf8(text) || !texts_.try_emplace(id, text).second) return;
  if (id > last_) last_ = id;
}

void StoredNames::add_missing(const StoredNames& other) {
  for (const auto& [id, text] : other.texts_) add(id, text);
}

std::string_view StoredNames::text(std::uint32_t id) {
  const auto found = texts_.find(id);
  return found == texts_.end() ? std::string_view() : std::string_view(found->second);
}

StoredNames StoredNames::read(const std::string& path) {
  try {
    return of_names_file(StoredFile::open(path));
  } catch (const std::system_error& error) {
    if (error.code().value() != ENOENT) throw;
    return {};
  }
}

StoredNames StoredNames::of_names_file(const StoredFile& file) {
  const std::string content = file.content(kMostBytes);
  const std::string_view bytes = content;
  StoredNames names;
  if (bytes.size() < kFileHeaderBytes) return names;  // it was being made
  constexpr std::size_t kChecked = kFileHeaderBytes - sizeof(std::uint32_t);
  const bool is_sound =
      bytes.starts_with(kFileMagic) && u32_at(bytes, kChecked) == crc32c(bytes.data(), kChecked);
  if (is_sound && u32_at(bytes, kFileMagic.size()) > kVersion) {
    throw StoredFileError(file.path() + " was written by a newer version of tracelet (format " +
                          std::to_string(u32_at(bytes, kFileMagic.size())) + ", this one reads " +
                          std::to_string(kVersion) + "): update tracelet to read it");
  }
  // Each block stands for itself, by its checksums and its first id: damage costs what it hits.
  std::size_t bad_from = is_sound ? std::string_view::npos : 0;
  std::size_t position = is_sound ? kFileHeaderBytes : 0;
  const auto note_damage = [&](std::size_t end) {
    if (bad_from == std::string_view::npos || !names.problem_.empty()) return;
    names.problem_ = file.path() + " at byte " + std::to_string(bad_from) + ": " +
                     std::to_string(end - bad_from) + " bytes are damaged";
  };
  while (position < bytes.size()) {
    Block block;
    if (read_block(bytes, position, block)) {
      note_damage(position);
      bad_from = std::string_view::npos;
      add_block(block, names);
      position += kBlockHeaderBytes + block.content.size();
      names.whole_bytes_ = position;
      continue;
    }
    if (bad_from == std::string_view::npos) bad_from = position;
    position = bytes.find(kBlockMagic, position + 1);
  }
  if (is_sound && names.whole_bytes_ == 0) names.whole_bytes_ = kFileHeaderBytes;
  if (!is_sound) note_damage(bytes.size());
  return names;
}

StoredNames StoredNames::of_tag_table(std::string_view table, std::uint64_t used_bytes) {
  StoredNames names;
  if (used_bytes > table.size()) names.problem_ = "the tag table is longer than its file";
  std::string_view rest =
      table.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(used_bytes, table.size())));
  for (std::uint32_t id = 1; rest.size() >= sizeof(std::uint32_t); ++id) {
    const std::size_t length = u32_at(rest, 0);
    const std::size_t padded = (length + 3) / 4 * 4;
    rest.remove_prefix(sizeof(std::uint32_t));
    // What pads a string is zero; where it is not, its length is damaged, and what follows can't be
    // told apart. So does a length of 0 where the table's own length can't be trusted.
    const bool is_end = !names.problem_.empty() && length == 0;
    if (is_end || padded > rest.size() ||
        rest.substr(length, padded - length).find_first_not_of('\0') != std::string_view::npos) {
      if (names.problem_.empty()) {
        names.problem_ = "the tag table is damaged behind string " + std::to_string(id - 1);
      }
      break;
    }
    names.add(id, rest.substr(0, length));
    rest.remove_prefix(padded);
  }
  return names;
}

}  // namespace tracelet
