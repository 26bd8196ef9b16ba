// Registers edgekern's ops with torch's dispatcher.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

namespace edgekern {

// `symbols` maps the names of for_each_torch_symbol to addresses in the running libtorch; optional ones may be absent.
// Once a process: throws std::logic_error the second time, std::invalid_argument when a required symbol is missing.
void register_torch_ops(const std::unordered_map<std::string, uintptr_t>& symbols);

}  // namespace edgekern
