// Programs of convolutions, run: for each slab of images whose buffers stay in cache, one parallel region, in which a step after
// the other is cut into tickets, and none begins before the one before it is done.
#include "ops/int8_conv2d_program.h"

#include <new>

#include "base/parallel.h"
#include "isa/kernels.h"

namespace edgekern::int8::program {
namespace {

enum class Part { kEntry, kConvolution, kPieces, kExit };

// What a phase of the region is about.
struct Task {
  Part part;
  int64_t step;   // of a convolution and of pieces
  int64_t phase;  // of a convolution
  Pieces pieces;  // of all but convolutions
};

// The phases of a slab, of as many images as the calls are planned for.
struct Tasks {
  Task* tasks;
  Phase* phases;
  int64_t count = 0;

  void add(const Task& task, int64_t tickets) {
    if (tickets == 0) return;
    tasks[count] = task;
    phases[count].count = tickets;
    phases[count].next.store(0, std::memory_order_relaxed);
    phases[count].done.store(0, std::memory_order_relaxed);
    ++count;
  }
  void add(Part part, int64_t step, const Pieces& pieces) { add({part, step, 0, pieces}, pieces.tickets()); }
};

// The call of a convolution gets its addresses.
void place_convolution(const Run& run, int64_t i) {
  const Program& program = run.program;
  const int64_t sum = program.images[i + 1].sum;
  Call& call = program.calls[i];
  call.x.data = run.at(program.steps[i].x);
  if (sum == kNone) {
    call.y.data = run.at(i + 1);
  } else {
    const ek_conv2d_step& step = program.steps[sum];
    call.sum.other.data = run.at(step.other == i + 1 ? step.x : step.other);
    call.sum.y.data = run.at(sum + 1);
  }
  place_call(&call, run.scratch);
}

// All tasks of a slab; how many multiply-adds they have.
int64_t list_tasks(const Run& run, int64_t images, Tasks* tasks) {
  const Program& program = run.program;
  int64_t macs = 0;
  tasks->add(Part::kEntry, 0, pieces_of_entry(program, images));
  for (int64_t i = 0; i < program.count; ++i) {
    const Image& y = program.images[i + 1];
    if (y.sum != kNone) continue;  // its sum's turn is its own
    const int64_t conv = program.steps[i].kind == EK_CONV2D ? i : y.conv;
    if (conv == kNone) {
      tasks->add(Part::kPieces, i, pieces_of_step(program, i, images));
      continue;
    }
    place_convolution(run, conv);
    const Call& call = program.calls[conv];
    macs += call.macs(images);
    for (int64_t phase = 0; phase < kCallPhases; ++phase)
      tasks->add({Part::kConvolution, conv, phase, {}}, ticket_count(call, phase, images));
  }
  tasks->add(Part::kExit, 0, pieces_of_exit(program, images));
  return macs;
}

void run_slab(const Run& run, int64_t images, Task* memory) {
  Tasks tasks{memory, run.program.phases.get()};
  const int64_t macs = list_tasks(run, images, &tasks);
  run_phases(macs < kSerialMacs ? nullptr : run.parallel, tasks.phases, tasks.count,
             [&](int64_t phase, int64_t ticket, int64_t thread) {
               const Task& task = tasks.tasks[phase];
               const auto [begin, end] = task.pieces.piece(ticket);
               if (task.part == Part::kConvolution)
                 return run_ticket(run.program.calls[task.step], task.phase, images, ticket, thread);
               if (task.part == Part::kPieces) return run_step(run, task.step, begin, end);
               task.part == Part::kEntry ? run_entry(run, begin, end) : run_exit(run, begin, end);
             });
}

}  // namespace
}  // namespace edgekern::int8::program

using namespace edgekern;
using namespace edgekern::int8::program;

extern "C" ek_status ek_int8_conv2d_program(const ek_isa* isa, const ek_conv2d_step* steps, int64_t count, int64_t images,
                                            const ek_image_shape* x_shape, const void* x, ek_image_order x_order, void* y,
                                            ek_image_order y_order, void* workspace, size_t workspace_size,
                                            const ek_parallel* parallel) {
  if (x_shape == nullptr) return EK_ERROR_NULL_POINTER;
  Program program{};
  ek_status status = open_program(isa, steps, count, images, *x_shape, x_order, y_order, parallel, &program);
  if (status != EK_OK || images == 0) return status;
  const bool empty = program.images[0].pixels() == 0;  // all that windows meet are zeros
  if ((x == nullptr && !empty) || y == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (static_cast<int64_t>(workspace_size) < program.bytes()) return EK_ERROR_WORKSPACE;
  char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63});
  const std::unique_ptr<Task[]> tasks(new (std::nothrow) Task[static_cast<size_t>(most_phases(count))]);
  if (tasks == nullptr) return EK_ERROR_OUT_OF_MEMORY;
  Run run{program, parallel, static_cast<const char*>(x), static_cast<char*>(y), start, start + program.buffer_bytes()};
  for (int64_t b = 0; b < images; b += program.slab_images) {
    const int64_t some = min_of(program.slab_images, images - b);
    if (some < program.slab_images) plan_calls(&program, some);
    run_slab(run, some, tasks.get());
    run.x += some * run.x_bytes();
    run.y += some * program.images[count].bytes();
  }
  return EK_OK;
}
