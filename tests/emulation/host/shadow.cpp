#include "shadow.h"

namespace cuda_host {
namespace {

std::uint32_t warp_epoch(int warp) { return block.warp_epochs[static_cast<std::size_t>(warp)]; }

}  // namespace

void Shadow::begin_block() { bytes_.assign(block.shared_bytes, Byte{}); }

std::string Shadow::race(const Byte &byte, bool write) const {
  const int me = block.running, warp = me >> 5;
  if (byte.write_epoch == block.epoch && byte.writer != me) {
    const bool ordered = byte.writer >> 5 == warp && byte.write_warp_epoch < warp_epoch(warp);
    if (!ordered) return "race with a write by " + name_thread(byte.writer);
  }
  if (!write || byte.read_epoch != block.epoch) return "";
  if (byte.many_warps || byte.reading_warp != warp) {
    const int other = byte.reading_warp == warp ? -1 : byte.reading_warp;
    return "race with a read by another warp" + (other < 0 ? "" : ", " + std::to_string(other));
  }
  const std::uint32_t others = byte.reading_lanes & ~(1u << (me & 31));
  if (others && byte.read_warp_epoch == warp_epoch(warp)) {
    return "race with a read by " + name_thread(32 * warp + __builtin_ctz(others));
  }
  return "";
}

void Shadow::record(Byte &byte, bool write) const {
  const int me = block.running, warp = me >> 5;
  if (write) {
    byte.writer = static_cast<std::int16_t>(me);
    byte.write_epoch = block.epoch;
    byte.write_warp_epoch = warp_epoch(warp);
    return;
  }
  if (byte.read_epoch != block.epoch) {
    byte.read_epoch = block.epoch;
    byte.many_warps = false;
    byte.reading_warp = static_cast<std::int16_t>(warp);
    byte.reading_lanes = 0;
    byte.read_warp_epoch = 0;
  }
  byte.many_warps |= byte.reading_warp != warp;
  if (byte.read_warp_epoch != warp_epoch(warp)) byte.reading_lanes = 0;
  byte.read_warp_epoch = warp_epoch(warp);
  byte.reading_lanes |= 1u << (me & 31);
}

std::string Shadow::access(std::size_t offset, int bytes, bool write) {
  for (std::size_t i = offset; i < offset + static_cast<std::size_t>(bytes); ++i) {
    Byte &byte = bytes_[i];
    if (byte.in_flight && (!write || byte.writer != block.running)) {
      return "access to bytes that a cp.async has in flight";
    }
    if (!write && byte.write_epoch == 0) return "read of uninitialised shared memory";
    if (std::string found = race(byte, write); !found.empty()) return found;
    byte.in_flight = false;  // the copy itself lands, on behalf of its thread
    record(byte, write);
  }
  return "";
}

void Shadow::start_copy(std::size_t offset, int bytes) {
  for (int i = 0; i < bytes; ++i) bytes_[offset + static_cast<std::size_t>(i)].in_flight = true;
}

}  // namespace cuda_host
