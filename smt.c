
#include <immintrin.h>
#define F(i) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #i "\n"
#define F2(x,b,i) "vfmadd231ps %%ymm" #b ", %%ymm" #x ", %%ymm" #i "\n"
#define FM F(0)F(1)F(2)F(3)F(4)F(5)F(6)F(7)F(8)F(9)F(10)F(11)
#define N "xorl %%eax,%%eax\n"
#define Z "vxorps %%ymm14,%%ymm14,%%ymm14\n vxorps %%ymm15,%%ymm15,%%ymm15\n"
#define CL "ymm0","ymm1","ymm2","ymm3","ymm4","ymm5","ymm6","ymm7","ymm8","ymm9","ymm10","ymm11","ymm12","ymm13","ymm14","ymm15","eax"
void pure(long n){ long i=n; __asm__ volatile(Z "1:\n" FM FM FM FM "decq %0\n jnz 1b\n":"+r"(i)::CL);}
#define FN F(0)F(1)N F(2)N F(3)F(4)N F(5)N F(6)F(7)N F(8)N F(9)F(10)N F(11)N
void nops(long n){ long i=n; __asm__ volatile(Z "1:\n" FN FN FN FN "decq %0\n jnz 1b\n":"+r"(i)::CL);}
#define B(o) "vbroadcastss " #o "(%1), %%ymm13\n"
#define L(o,r) "vmovaps " #o "(%1), %%ymm" #r "\n"
#define R(o,a,b) B(o) F2(13,14,a) F2(13,15,b)
#define FL L(0,14) L(32,15) R(64,0,1) R(68,2,3) R(72,4,5) R(76,6,7) R(80,8,9) R(84,10,11)
float buf[64] __attribute__((aligned(64)));
void loads(long n){ long i=n; __asm__ volatile(Z "1:\n" FL FL FL FL "decq %0\n jnz 1b\n":"+r"(i):"r"(buf):CL);}
#define R3(o,a,b,c) B(o) F2(13,12,a) F2(13,14,b) F2(13,15,c)
#define FK L(0,12) L(32,14) L(64,15) R3(96,0,1,2) R3(100,3,4,5) R3(104,6,7,8) R3(108,9,10,11)
void four3(long n){ long i=n; __asm__ volatile(Z "1:\n" FK FK FK FK "decq %0\n jnz 1b\n":"+r"(i):"r"(buf):CL);}
