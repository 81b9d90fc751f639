#include "tensors.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

namespace cuda_host {
namespace {

constexpr int kLaunchShift = 42;  // 2^32 blocks of 2^10 threads

}  // namespace

void *Tensors::add(const std::string &name, std::size_t bytes, Role role) {
  if (!arena_) {
    void *const memory = mmap(nullptr, kArena, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    arena_ = next_ = static_cast<char *>(memory);
  }
  char *const begin = next_ + kGap;
  next_ = begin + (bytes + 255) / 256 * 256 + kGap;
  if (next_ > arena_ + kArena) throw std::bad_alloc();
  tensors_.push_back({begin, begin + bytes, name, role,
                      std::vector<std::uint64_t>(role == Role::input ? 0 : bytes)});
  return begin;
}

void Tensors::clear() {
  tensors_.clear();
  next_ = arena_;
  launch_ = 0;
}

bool Tensors::holds(const void *address) const {
  return arena_ && address >= arena_ && address < arena_ + kArena;
}

std::uint64_t Tensors::tag() const {
  return launch_ << kLaunchShift | (static_cast<std::uint64_t>(block.number) << 10) |
         static_cast<std::uint64_t>(block.running);
}

std::string Tensors::judge(Tensor &tensor, std::size_t offset, int bytes, bool write) const {
  if (tensor.role == Role::input) return write ? "write to an input" : "";
  const std::uint64_t me = tag();
  for (std::size_t i = offset; i < offset + static_cast<std::size_t>(bytes); ++i) {
    std::uint64_t &writer = tensor.writers[i];
    const bool now = writer >> kLaunchShift == launch_;
    if (write) {
      if (writer && (now || tensor.role == Role::output)) {
        return writer == me ? "written twice" : "written by two threads";
      }
      writer = me;
    } else if (!writer) {
      return "read of an element that was never written";
    } else if (now && writer != me) {
      return "read of an element that another thread wrote in this launch";
    }
  }
  return "";
}

std::string Tensors::access(const char *address, int bytes, bool write) {
  for (Tensor &tensor : tensors_) {
    if (address + bytes <= tensor.begin - kGap / 2 || address >= tensor.end + kGap / 2) continue;
    const std::string place = " at " + tensor.name + "[" + std::to_string(address - tensor.begin) +
                              " of " + std::to_string(tensor.end - tensor.begin) + " bytes]";
    if (address < tensor.begin || address + bytes > tensor.end) return "out of bounds" + place;
    (write ? tensor.bytes_written : tensor.bytes_read) += static_cast<std::uint64_t>(bytes);
    const auto offset = static_cast<std::size_t>(address - tensor.begin);
    const std::string wrong = judge(tensor, offset, bytes, write);
    return wrong.empty() ? wrong : wrong + place;
  }
  return "out of bounds: far from any tensor";
}

}  // namespace cuda_host
