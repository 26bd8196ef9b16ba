// Programs of convolutions, run. Of many images each thread takes some and runs them by itself: what one step makes is then in
// its core's cache when the next one reads it. The threads share out what is left of one image a thread, or if there are fewer to
// begin with: for each slab of images whose buffers stay in cache, one parallel region, in which a step after the other is cut into
// tickets, and none begins before the one before it is done.
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

// All images, a slab after the other.
void run_slabs(Run run, int64_t images, Program* program, Task* tasks) {
  for (int64_t b = 0; b < images; b += program->slab_images) {
    const int64_t some = min_of(program->slab_images, images - b);
    if (some < program->slab_images) plan_calls(program, some);
    run_slab(run, some, tasks);
    run.x += some * run.x_bytes();
    run.y += some * program->images[program->count].bytes();
  }
}

// What a caller gives.
struct Request {
  const ek_isa* isa;
  const ek_conv2d_step* steps;
  int64_t count, images;
  const ek_image_shape& x;
  ek_image_order x_order, y_order;
  const ek_parallel* parallel;

  ek_status open(int64_t some, const ek_parallel* threads, Program* program) const {
    return open_program(isa, steps, count, some, x, x_order, y_order, threads, program);
  }
};

// How images are shared out: [0, apart) by `alone` of them to a thread, and the rest to all threads together.
struct Shares {
  int64_t threads = 1, apart = 0, alone = 0;
  Program first{};     // for `alone` images and one thread
  Program together{};  // for the rest

  bool rest(int64_t images) const { return apart < images || images == 0; }
  int64_t bytes(int64_t images) const {
    return max_of(apart > 0 ? threads * first.bytes() : 0, rest(images) ? together.bytes() : 0);
  }
};

ek_status open_shares(const Request& request, Shares* shares) {
  ek_status status = request.open(request.images, request.parallel, &shares->together);
  shares->threads = thread_count(request.parallel);
  const int64_t each = request.images / shares->threads;
  if (status != EK_OK || shares->threads == 1 || each == 0) return status;
  int64_t macs = 0;
  for (int64_t i = 0; i < request.count; ++i)
    if (request.steps[i].kind == EK_CONV2D) macs += shares->together.calls[i].macs(request.images);
  if (macs < kSerialMacs) return status;
  shares->apart = each * shares->threads;
  // Two shares a thread or more, so that a faster core takes more of them; and all threads end with one.
  shares->alone = max_of(1, min_of(shares->together.slab_images, each / 2));
  while (each % shares->alone != 0) --shares->alone;
  status = request.open(shares->alone, nullptr, &shares->first);
  if (status != EK_OK || shares->apart == request.images) return status;
  shares->together = {};
  return request.open(request.images - shares->apart, request.parallel, &shares->together);
}

// Images [0, apart), a share to whichever thread is free.
ek_status run_apart(const Request& request, Shares* shares, const char* x, char* y, char* workspace) {
  const int64_t count = request.count, threads = shares->threads, tickets = shares->apart / shares->alone;
  const std::unique_ptr<Program[]> programs(new (std::nothrow) Program[static_cast<size_t>(threads)]());
  const std::unique_ptr<Task[]> tasks(new (std::nothrow) Task[static_cast<size_t>(threads * most_phases(count))]);
  if (programs == nullptr || tasks == nullptr) return EK_ERROR_OUT_OF_MEMORY;
  for (int64_t t = 0; t < threads; ++t) {
    const ek_status status = request.open(shares->alone, nullptr, &programs[t]);
    if (status != EK_OK) return status;
  }
  Phase phase;
  phase.count = tickets;
  run_phases(request.parallel, &phase, 1, [&](int64_t, int64_t ticket, int64_t thread) {
    Program& program = programs[thread];
    char* start = workspace + thread * program.bytes();
    Run run{program, nullptr, x, y, start, start + program.buffer_bytes()};
    run.x += ticket * shares->alone * run.x_bytes();
    run.y += ticket * shares->alone * program.images[count].bytes();
    run_slabs(run, shares->alone, &program, tasks.get() + thread * most_phases(count));
  });
  return EK_OK;
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
  const Request request{isa, steps, count, images, *x_shape, x_order, y_order, parallel};
  Shares shares;
  ek_status status = open_shares(request, &shares);
  if (status != EK_OK || images == 0) return status;
  Program& together = shares.together;
  const bool empty = together.images[0].pixels() == 0;  // all that windows meet are zeros
  if ((x == nullptr && !empty) || y == nullptr || workspace == nullptr) return EK_ERROR_NULL_POINTER;
  if (static_cast<int64_t>(workspace_size) < shares.bytes(images)) return EK_ERROR_WORKSPACE;
  char* start = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(workspace) + 63) & ~uintptr_t{63});
  Run run{together, parallel, static_cast<const char*>(x), static_cast<char*>(y), start, start + together.buffer_bytes()};
  if (shares.apart > 0) {
    status = run_apart(request, &shares, run.x, run.y, start);
    if (status != EK_OK) return status;
    run.x += shares.apart * run.x_bytes();
    run.y += shares.apart * together.images[count].bytes();
  }
  if (shares.apart == images) return EK_OK;
  const std::unique_ptr<Task[]> tasks(new (std::nothrow) Task[static_cast<size_t>(most_phases(count))]);
  if (tasks == nullptr) return EK_ERROR_OUT_OF_MEMORY;
  run_slabs(run, images - shares.apart, &together, tasks.get());
  return EK_OK;
}

extern "C" size_t ek_int8_conv2d_program_workspace_size(const ek_isa* isa, const ek_conv2d_step* steps, int64_t count,
                                                        int64_t images, const ek_image_shape* x, ek_image_order x_order,
                                                        ek_image_order y_order, const ek_parallel* parallel) {
  Shares shares;
  if (x == nullptr || open_shares({isa, steps, count, images, *x, x_order, y_order, parallel}, &shares) != EK_OK) return 0;
  return static_cast<size_t>(shares.bytes(images));
}
