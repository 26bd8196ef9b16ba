// A qemu-user plugin: how often every instruction of a program ran, and which addresses it read or wrote.
//
//   c++ -O2 -fPIC -shared -o count.so count.cc
//   qemu-aarch64 -plugin count.so,out=FILE PROGRAM
//
// FILE gets a line an instruction: its address, its runs, and the lowest and highest data address (hexadecimal; the
// lowest is above the highest when it touched no memory). For programs of one thread: the counters are not atomic.
//
// Debian's qemu-user takes plugins but no package holds qemu-plugin.h, so the few declarations are here, as version 1
// of that interface has them.
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <map>

extern "C" {
typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*TranslateCallback)(qemu_plugin_id_t, qemu_plugin_tb*);
typedef void (*MemoryCallback)(unsigned cpu, uint32_t info, uint64_t address, void* data);
typedef void (*ExitCallback)(qemu_plugin_id_t, void*);
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, TranslateCallback);
void qemu_plugin_register_vcpu_insn_exec_inline(qemu_plugin_insn*, int operation, void*, uint64_t);
void qemu_plugin_register_vcpu_mem_cb(qemu_plugin_insn*, MemoryCallback, int flags, int access, void*);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, ExitCallback, void*);
size_t qemu_plugin_tb_n_insns(const qemu_plugin_tb*);
qemu_plugin_insn* qemu_plugin_tb_get_insn(const qemu_plugin_tb*, size_t);
uint64_t qemu_plugin_insn_vaddr(const qemu_plugin_insn*);
}

namespace {

constexpr int kAdd = 0, kNoRegisters = 0, kReadsAndWrites = 3;

struct Instruction {
  uint64_t runs = 0;
  uint64_t lowest = UINT64_MAX, highest = 0;
};

std::map<uint64_t, Instruction> instructions;  // by address; entries stay where they are, so qemu may point at them
FILE* out;

void on_access(unsigned, uint32_t, uint64_t address, void* data) {
  Instruction& instruction = *static_cast<Instruction*>(data);
  if (address < instruction.lowest) instruction.lowest = address;
  if (address > instruction.highest) instruction.highest = address;
}

void on_translate(qemu_plugin_id_t, qemu_plugin_tb* block) {
  for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); ++i) {
    qemu_plugin_insn* handle = qemu_plugin_tb_get_insn(block, i);
    Instruction& instruction = instructions[qemu_plugin_insn_vaddr(handle)];
    qemu_plugin_register_vcpu_insn_exec_inline(handle, kAdd, &instruction.runs, 1);
    qemu_plugin_register_vcpu_mem_cb(handle, on_access, kNoRegisters, kReadsAndWrites, &instruction);
  }
}

void on_exit(qemu_plugin_id_t, void*) {
  for (const auto& [address, i] : instructions)
    if (i.runs > 0) fprintf(out, "%" PRIx64 " %" PRIx64 " %" PRIx64 " %" PRIx64 "\n", address, i.runs, i.lowest, i.highest);
  fclose(out);
}

}  // namespace

extern "C" {
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

__attribute__((visibility("default"))) int qemu_plugin_install(qemu_plugin_id_t id, const void*, int argc, char** argv) {
  if (argc != 1 || strncmp(argv[0], "out=", 4) != 0) {
    fprintf(stderr, "count: expected the argument out=FILE\n");
    return 1;
  }
  out = fopen(argv[0] + 4, "w");
  if (out == nullptr) {
    perror(argv[0] + 4);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
  qemu_plugin_register_atexit_cb(id, on_exit, nullptr);
  return 0;
}
}
