// A call from Python: what it throws becomes text.
#pragma once

#include <exception>
#include <string>

namespace cuda_host {

// Null, or what the call threw.
template <class Call>
const char *guard(Call call) {
  static std::string said;
  try {
    call();
    return nullptr;
  } catch (const std::exception &error) {
    said = error.what();
    return said.c_str();
  }
}

}  // namespace cuda_host
