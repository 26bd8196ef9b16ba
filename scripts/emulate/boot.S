# The emulated machine's whole firmware: 64 KiB of ROM that ends at 4 GiB, where an x86 CPU starts after reset.
# There is no BIOS. guest.py lays the guest's memory out beforehand (kernel, initramfs, start info), so all that is
# left to do is to switch to 32-bit protected mode and jump to the kernel's PVH entry, which takes:
#   paging off, flat segments, ebx = physical address of struct hvm_start_info.
# The ROM is seen a second time below 1 MiB, at 0xf0000: that is the address it is linked at.

  .set kHandover, 0x500             # three words written by guest.py: entry, start info, size of memory
  .set kMemoryBlock, 8 << 20        # Bochs's largest allocation unit (`memory: block_size=8192`)

  .text
  .code16
rom:
  cli
  lgdtl %cs:(gdt_pointer - rom)
  mov %cr0, %eax
  or $1, %al                        # protected mode
  mov %eax, %cr0
  ljmpl $8, $protected

  .code32
protected:
  mov $16, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss

  # Bochs 3.0 reads a memory image in one go into its first block, and hands blocks out in the order they are first
  # touched. Touching them upwards makes block i of the image be block i of memory.
  xor %esi, %esi
touch:
  mov (%esi), %al
  add $kMemoryBlock, %esi
  cmp %esi, kHandover + 8
  ja touch

  mov kHandover + 4, %ebx
  jmp *kHandover

  .balign 8
gdt:
  .quad 0
  .quad 0x00cf9a000000ffff          # 8: code, base 0, limit 4 GiB
  .quad 0x00cf92000000ffff          # 16: data, the same
gdt_pointer:
  .word . - gdt - 1
  .long gdt

  .org 0xfff0                       # the reset vector
  .code16
  jmp rom
  .org 0x10000
