// The emulated machine's init: runs /test with the arguments in /arguments and reports on two emulated parallel ports,
// which Bochs writes to files byte by byte with no baud rate to wait for: what the test prints on the first port, then
// the CPU's flags and how the test ended on the second. Then it switches the machine off.
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace {

constexpr unsigned short kOutputPort = 0x378;
constexpr unsigned short kStatusPort = 0x278;
constexpr unsigned short kBochsShutdownPort = 0x8900;
constexpr size_t kArgumentsLimit = 4096;  // emulate_x86.py checks it

void send(unsigned short port, const char* bytes, size_t size) {
  for (size_t i = 0; i < size; ++i) {
    outb(bytes[i], port);
    outb(0x0d, port + 2);  // printer selected, not in reset, strobe: the byte is taken on the strobe's rising edge
    outb(0x0c, port + 2);
  }
}

void send_cpu_flags() {
  char line[8192];
  FILE* cpuinfo = fopen("/proc/cpuinfo", "r");
  while (cpuinfo && fgets(line, sizeof line, cpuinfo)) {
    if (strncmp(line, "flags", 5) == 0) send(kStatusPort, line, strlen(line));
  }
}

// /arguments holds NUL-terminated strings: the argument vector, an empty string, then NAME=value of the environment.
[[noreturn]] void run_test() {
  static char text[kArgumentsLimit];
  static char* words[kArgumentsLimit];  // a word has a byte at least
  const int file = open("/arguments", O_RDONLY);
  const ssize_t size = read(file, text, sizeof text);
  char** word = words;
  char** environment = nullptr;
  for (char* at = text; at < text + size; at += strlen(at) + 1) {
    if (*at != '\0') {
      *word++ = at;
    } else {
      *word++ = nullptr;
      environment = word;
    }
  }
  execve("/test", words, environment);
  perror("cannot run the test binary");
  _exit(127);
}

}  // namespace

int main() {
  mount("proc", "/proc", "proc", 0, nullptr);
  mount("dev", "/dev", "devtmpfs", 0, nullptr);
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return 1;
  const pid_t test = fork();
  if (test == 0) {
    dup2(open("/dev/null", O_RDONLY), STDIN_FILENO);
    dup2(pipe_ends[1], STDOUT_FILENO);
    dup2(pipe_ends[1], STDERR_FILENO);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    run_test();
  }
  close(pipe_ends[1]);
  if (iopl(3) != 0) return 1;  // after fork(): the test must not have the ports
  send_cpu_flags();
  char buffer[4096];
  for (ssize_t size; (size = read(pipe_ends[0], buffer, sizeof buffer)) > 0;) send(kOutputPort, buffer, size);
  int status = 0;
  waitpid(test, &status, 0);
  const int length = WIFSIGNALED(status) ? snprintf(buffer, sizeof buffer, "signal %d\n", WTERMSIG(status))
                                         : snprintf(buffer, sizeof buffer, "exit %d\n", WEXITSTATUS(status));
  send(kStatusPort, buffer, length);
  for (const char* letter = "Shutdown"; *letter != '\0'; ++letter) outb(*letter, kBochsShutdownPort);
  for (;;) pause();
}
