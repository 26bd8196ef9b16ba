# The ISA table: one row an instruction set, best first. To add one: write csrc/isa/<name>.cc, add its row.
#
#   name           architecture   CPU features it needs (csrc/cpu/features.cc)           compiler flags
set(EDGEKERN_ISA_TABLE
  "avx512_vbmi2 | x86_64  | avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_vbmi2 | -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx512vbmi2 -Wno-uninitialized"
  "avx512_vnni  | x86_64  | avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni | -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -Wno-uninitialized"
  "avx_vnni     | x86_64  | avx2 fma f16c avx_vnni                                       | -mavx2 -mfma -mf16c -mavxvnni"
  "avx2         | x86_64  | avx2 fma f16c                                                | -mavx2 -mfma -mf16c"

  # Half-precision arithmetic comes with every core that has the dot product: isa/neon_half.h counts on it.
  "neon_i8mm    | aarch64 | asimd asimdhp asimddp i8mm                                  | -march=armv8.2-a+fp16+dotprod+i8mm"
  "neon_dotprod | aarch64 | asimd asimdhp asimddp                                       | -march=armv8.2-a+fp16+dotprod"
  "neon         | aarch64 | asimd                                                       | "

  "scalar       | any     |                                                             | "
)

# x86_64, aarch64, or the processor as CMake names it.
function(edgekern_architecture result)
  string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
  if(processor STREQUAL "amd64")
    set(processor x86_64)
  elseif(processor STREQUAL "arm64")
    set(processor aarch64)
  endif()
  set(${result} "${processor}" PARENT_SCOPE)
endfunction()

# Adds the rows for this architecture to `target` and writes isa_rows.h, the list that csrc/isa/table.cc reads.
function(edgekern_add_isas target)
  edgekern_architecture(processor)
  set(rows "")
  foreach(row IN LISTS EDGEKERN_ISA_TABLE)
    string(REPLACE "|" ";" fields "${row}")
    list(GET fields 0 name)
    list(GET fields 1 architecture)
    list(GET fields 2 needs)
    list(GET fields 3 flags)
    foreach(field name architecture needs flags)
      string(STRIP "${${field}}" ${field})
    endforeach()
    if(NOT architecture STREQUAL processor AND NOT architecture STREQUAL "any")
      continue()
    endif()
    separate_arguments(flags)
    set(source "${PROJECT_SOURCE_DIR}/csrc/isa/${name}.cc")
    # Always optimised: the kernels rely on inlining to keep accumulators in registers and to export nothing.
    # Under sanitizers less so: gcc takes minutes to unroll instrumented code. Nor is plain C++ worth the size of -O3.
    # Of scalar's vectors, which are arrays, it makes ten minutes even at -O1.
    if(EDGEKERN_SANITIZE AND name STREQUAL "scalar")
      set(optimise -O0)
    elseif(EDGEKERN_SANITIZE)
      set(optimise -O1)
    elseif(name STREQUAL "scalar")
      set(optimise -O2)
    else()
      set(optimise -O3)
    endif()
    # gcc: partial redundancy elimination and plain register assignment each put copies of accumulators into hot loops;
    # without the one and with renaming in the other there are none. Scheduling before register allocation, on by default
    # for ARM, hoists loads until accumulators spill. scripts/check_isa.py looks for all of it.
    set(gcc "$<$<CXX_COMPILER_ID:GNU>:-fno-tree-pre;-frename-registers;-fno-schedule-insns>")
    set_source_files_properties("${source}" PROPERTIES COMPILE_OPTIONS "${optimise};${gcc};${flags}")
    target_sources(${target} PRIVATE "${source}")
    string(APPEND rows "EK_ISA_ROW(${name}, \"${needs}\")\n")
  endforeach()
  file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/isa/isa_rows.h" CONTENT "${rows}")
  target_include_directories(${target} PRIVATE "${PROJECT_BINARY_DIR}/isa")
endfunction()
