// Adds the factorized convolutions to the extension.
#pragma once

#include <pybind11/pybind11.h>

namespace pyphase {

void bind_conv(pybind11::module_ &m);

}  // namespace pyphase
