// mma.sync and ldmatrix as meetings of a warp. Products and sums are formed in double and rounded
// once: tensor cores round otherwise, so that only tolerances may be asserted of their results.
#include <cmath>
#include <cstring>

#include "machine.h"

namespace cuda_host {
namespace {

struct MmaArguments {
  float *d;
  const std::uint32_t *a, *b;
};

double element(std::uint32_t bits, int half, const __half *) {
  const __half_raw raw{static_cast<unsigned short>(bits >> 16 * half)};
  return static_cast<double>(__half2float(__half(raw)));
}

double element(std::uint32_t bits, int half, const __nv_bfloat16 *) {
  const __nv_bfloat16_raw raw{static_cast<unsigned short>(bits >> 16 * half)};
  return static_cast<double>(__bfloat162float(__nv_bfloat16(raw)));
}

double element(std::uint32_t bits, int, const float *) {
  bits &= 0xffffe000u;  // the hardware looks at 19 bits
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return static_cast<double>(value);
}

void require_warp(void *const (&lanes)[32]) {
  for (const void *each : lanes) {
    if (!each) fail("a tensor core instruction needs a whole warp");
  }
}

template <class T>
void multiply(void *const (&lanes)[32]) {
  require_warp(lanes);
  constexpr int packed = sizeof(T) == 2 ? 2 : 1, depth = 8 * packed;
  double a[16][depth], b[depth][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto &own = *static_cast<const MmaArguments *>(lanes[lane]);
    const int g = lane >> 2, q = lane & 3;
    for (int e = 0; e < packed; ++e) {
      for (int r = 0; r < 4; ++r) {
        a[g + 8 * (r & 1)][packed * (q + 4 * (r >> 1)) + e] =
            element(own.a[r], e, static_cast<const T *>(nullptr));
      }
      for (int r = 0; r < 2; ++r) {
        b[packed * (q + 4 * r) + e][g] = element(own.b[r], e, static_cast<const T *>(nullptr));
      }
    }
  }
  double sums[16][8];
  const auto each = [&](auto use) {
    for (int lane = 0; lane < 32; ++lane) {
      float *const d = static_cast<const MmaArguments *>(lanes[lane])->d;
      for (int e = 0; e < 4; ++e)
        use(d[e], sums[(lane >> 2) + 8 * (e >> 1)][2 * (lane & 3) + (e & 1)]);
    }
  };
  each([](float d, double &sum) { sum = static_cast<double>(d); });
  for (int row = 0; row < 16; ++row) {
    for (int k = 0; k < depth; ++k) {
      for (int column = 0; column < 8; ++column) sums[row][column] += a[row][k] * b[k][column];
    }
  }
  each([](float &d, double sum) { d = static_cast<float>(sum); });
}

struct LdmatrixArguments {
  std::uint32_t *registers;
  const char *row;
  int count;
  bool transposed;
};

void load_matrices(void *const (&lanes)[32]) {
  require_warp(lanes);
  const int leader = block.running;
  for (int lane = 0; lane < 32; ++lane) {
    const auto &own = *static_cast<const LdmatrixArguments *>(lanes[lane]);
    block.running = (leader & ~31) + lane;  // a race is looked for on behalf of who gets the bytes
    for (int i = 0; i < own.count; ++i) {
      std::uint16_t pair[2];
      for (int e = 0; e < 2; ++e) {
        const int along = 2 * (lane & 3) + e, across = lane >> 2;
        const int row = own.transposed ? along : across, column = own.transposed ? across : along;
        const char *const from =
            static_cast<const LdmatrixArguments *>(lanes[8 * i + row])->row + 2 * column;
        if (checks.access) checks.access(from, 2, false, nullptr);
        std::memcpy(&pair[e], from, 2);
      }
      own.registers[i] = pair[0] | static_cast<std::uint32_t>(pair[1]) << 16;
    }
  }
  block.running = leader;
}

}  // namespace

template <class T>
void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], Site site) {
  MmaArguments own{d, a, b};
  meet(0xffffffffu, &own, &multiply<T>, Order::none, site);
}
template void mma<float>(float (&)[4], const std::uint32_t (&)[4], const std::uint32_t (&)[2],
                         Site);
template void mma<__half>(float (&)[4], const std::uint32_t (&)[4], const std::uint32_t (&)[2],
                          Site);
template void mma<__nv_bfloat16>(float (&)[4], const std::uint32_t (&)[4],
                                 const std::uint32_t (&)[2], Site);

void ldmatrix(std::uint32_t *registers, const void *row, int count, bool transposed, Site site) {
  const bool looked_at = lane() < 8 * count;
  const char *const address = static_cast<const char *>(row);
  if (looked_at) {
    if (reinterpret_cast<std::uintptr_t>(row) & 15) fail("ldmatrix: a row is not aligned to 16");
    if (address < block.shared || address + 16 > block.shared + block.shared_bytes) {
      fail("ldmatrix: a row is out of shared memory's bounds");
    }
  }
  LdmatrixArguments own{registers, address, count, transposed};
  meet(0xffffffffu, &own, &load_matrices, Order::none, site);
}

std::uint32_t to_tf32(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (!std::isfinite(value)) return bits;
  return (bits + 0x1000u) & 0xffffe000u;
}

}  // namespace cuda_host
