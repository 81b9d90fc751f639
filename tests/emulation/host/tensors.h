// The tensors of a checked run: far apart in one arena, so that an access outside is known.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "machine.h"

namespace cuda_host {

enum class Role { input, output, workspace };  // an output's elements are written once in all

class Tensors {
 public:
  void *add(const std::string &name, std::size_t bytes, Role role);
  void clear();
  void begin_launch() { ++launch_; }
  bool holds(const void *address) const;
  // Empty, or what is wrong with this access by the thread that runs.
  std::string access(const char *address, int bytes, bool write);

  struct Tensor {
    char *begin, *end;
    std::string name;
    Role role;
    std::vector<std::uint64_t> writers;  // by byte: launch, block and thread; 0: nobody
    std::uint64_t bytes_read = 0, bytes_written = 0;
  };
  const Tensor &at(std::size_t index) const { return tensors_.at(index); }

 private:
  std::string judge(Tensor &tensor, std::size_t offset, int bytes, bool write) const;
  std::uint64_t tag() const;

  static constexpr std::size_t kArena = std::size_t{1} << 34, kGap = 64 << 10;
  char *arena_ = nullptr, *next_ = nullptr;
  std::vector<Tensor> tensors_;
  std::uint64_t launch_ = 0;
};

}  // namespace cuda_host
