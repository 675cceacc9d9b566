// Launches a kernel: every launch of the extensions goes through here.
//
// SPDX-License-Identifier: Apache-2.0

#pragma once

#include <cuda_runtime.h>

#include "torch.h"

namespace sage {

// Takes the kernel's arguments as the host code has them, and converts them to the kernel's types.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            const Arguments &...arguments) {
  kernel<<<grid, block, shared_bytes>>>(static_cast<Parameters>(arguments)...);
}

}  // namespace sage
