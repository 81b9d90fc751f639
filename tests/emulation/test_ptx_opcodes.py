"""Each opcode of the PTX interpreter against numpy, on numbers that include the awkward ones."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import pytest

from emulation.machine import INPUT, OUTPUT, Fault, Launched, Tensor
from emulation.ptx.counters import Counts
from emulation.ptx.launch import run_launch
from emulation.ptx.opcodes import TABLE
from emulation.ptx.parse import Unsupported, parse
from emulation.ptx.tensors import Tensors
from emulation.ptx.values import from_bfloat16, to_bfloat16, to_tf32

RANDOM = np.random.default_rng(0)
WORDS = RANDOM.integers(0, 1 << 32, 64, np.uint32)
WORDS[:8] = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 31, 32, 33]
REALS = RANDOM.standard_normal(64).astype(np.float32) * 10
REALS[:6] = [0, -0.0, np.inf, -np.inf, np.nan, 1e-40]


def execute(body: str, *arrays: np.ndarray, result=np.uint32, shared: int = 0, size: int = 64):
    """Run a body on 64 threads: %a, %b, %c hold a thread's words, %d is stored at the end."""
    loads = "".join(
        f"ld.param.u64 %p, [in{i}]; add.s64 %p, %p, %o; ld.global.b32 %{name}, [%p];\n"
        for i, name in zip(range(len(arrays)), "abc", strict=False)
    )
    parameters = ", ".join([*(f".param .u64 in{i}" for i in range(len(arrays))), ".param .u64 out"])
    text = f"""
    .extern .shared .align 16 .b8 pool[];
    .visible .entry k({parameters}) .maxntid 64, 1, 1 {{
      .reg .pred %q<4>; .reg .b16 %h<8>; .reg .b32 %r<16>; .reg .b64 %w<8>; .reg .f32 %f<8>;
      .reg .b32 %a, %b, %c, %d, %t; .reg .b64 %p, %o;
      mov.u32 %t, %tid.x; mul.wide.u32 %o, %t, 4;
      {loads} {body}
      ld.param.u64 %p, [out]; add.s64 %p, %p, %o; st.global.b32 [%p], %d;
      ret;
    }}"""
    out = np.zeros(size, np.uint32)
    tensors = [Tensor(f"in{i}", np.ascontiguousarray(a), INPUT) for i, a in enumerate(arrays)]
    tensors.append(Tensor("out", out, OUTPUT))
    addresses = [ctypes.c_uint64(t.array.ctypes.data) for t in tensors]
    places = (ctypes.c_size_t * 2 * len(addresses))(*((ctypes.addressof(a), 8) for a in addresses))
    pointer = ctypes.cast(places, ctypes.POINTER(ctypes.c_size_t * 2))
    launched = Launched(None, (1, 1, 1), (64, 1, 1), shared, pointer, len(addresses))
    reachable = Tensors(tensors)
    run_launch(parse(text), "k", launched, reachable, Counts())
    reachable.require_complete()
    return out.view(result)


def signed(x):
    return x.view(np.int32)


def long(x):
    return x.astype(np.int64)


A, B = WORDS, np.roll(WORDS, 7)
SMALL = A % np.uint32(40)
LANES = np.arange(64)
INTEGERS = {
    "add.s32 %d, %a, %b;": A + B,
    "sub.s32 %d, %a, %b;": A - B,
    "mul.lo.s32 %d, %a, %b;": A * B,
    "mul.hi.u32 %d, %a, %b;": (A.astype(np.uint64) * B >> np.uint64(32)).astype(np.uint32),
    "mul.hi.s32 %d, %a, %b;": (long(signed(A)) * signed(B) >> 32).astype(np.int32).view(np.uint32),
    "mad.lo.s32 %d, %a, %b, %a;": A * B + A,
    "mul.wide.s32 %w1, %a, %b; shr.u64 %w1, %w1, 32; cvt.u32.u64 %d, %w1;": (
        (long(signed(A)) * signed(B) >> 32).astype(np.int32).view(np.uint32)
    ),
    "mul.wide.u16 %d, %h1, %h2;": (A & 0xFFFF) * (B & 0xFFFF),
    "mul.hi.u16 %h3, %h1, %h2; cvt.u32.u16 %d, %h3;": (A & 0xFFFF) * (B & 0xFFFF) >> np.uint32(16),
    "min.s32 %d, %a, %b;": np.minimum(signed(A), signed(B)).view(np.uint32),
    "max.u32 %d, %a, %b;": np.maximum(A, B),
    "neg.s32 %d, %a;": -A,
    "abs.s32 %d, %a;": np.abs(signed(A)).view(np.uint32),
    "and.b32 %d, %a, %b;": A & B,
    "or.b32 %d, %a, %b;": A | B,
    "xor.b32 %d, %a, %b;": A ^ B,
    "not.b32 %d, %a;": ~A,
    "cnot.b32 %d, %t;": LANES == 0,
    "lop3.b32 %d, %a, %b, %a, 0xea;": (A & B) | A,  # (a & b) | c
    "lop3.b32 %d, %a, %b, %b, 0x1e;": A ^ (B | B),  # a ^ (b | c)
    "shf.l.wrap.b32 %d, %a, %b, 5;": (B << np.uint32(5)) | (A >> np.uint32(27)),
    "prmt.b32 %d, %a, %b, 0x5410;": (A & 0xFFFF) | (B << np.uint32(16)),
    "prmt.b32 %d, %a, %b, 0x7632;": (A >> np.uint32(16)) | (B & np.uint32(0xFFFF0000)),
    "bfe.u32 %d, %a, 7, 9;": A >> np.uint32(7) & 511,
    "bfe.s32 %d, %a, 24, 8;": (signed(A) >> 24).view(np.uint32),
    "bfi.b32 %d, %a, %b, 8, 4;": (B & np.uint32(0xFFFFF0FF)) | (A & 15) << np.uint32(8),
    "popc.b32 %d, %a;": np.array([bin(x).count("1") for x in A], np.uint32),
    "clz.b32 %d, %a;": np.array([32 - int(x).bit_length() for x in A], np.uint32),
    "mov.b32 {%h4, %h5}, %a; mov.b32 %d, {%h5, %h4};": (A >> np.uint32(16)) | (A << np.uint32(16)),
    "cvt.s32.s16 %d, %h1;": signed(A).astype(np.int16).astype(np.int32).view(np.uint32),
    "cvt.u32.u16 %d, %h1;": A & 0xFFFF,
    "setp.lt.s32 %q1, %a, %b; selp.b32 %d, 7, 9, %q1;": np.where(signed(A) < signed(B), 7, 9),
    "setp.hi.u32 %q1, %a, %b; selp.b32 %d, 7, 9, %q1;": np.where(A > B, 7, 9),
    "setp.ne.s32 %q2, %t, 3; setp.gt.and.u32 %q1, %a, %b, %q2; selp.u32 %d, 1, 0, %q1;": (
        (A > B) & (np.arange(64) != 3)
    ),
    "setp.eq.s32 %q1|%q2, %a, %b; selp.u32 %d, 1, 0, %q2;": A != B,
    "mov.u32 %d, 5; setp.lt.u32 %q1, %t, 9; @!%q1 mov.u32 %d, 6;": np.where(
        np.arange(64) < 9, 5, 6
    ),
    "mov.u32 %d, %laneid;": np.arange(64) % 32,
}


@pytest.mark.parametrize("body", INTEGERS)
def test_integers(body):
    prefix = "cvt.u16.u32 %h1, %a; cvt.u16.u32 %h2, %b; "
    got = execute(prefix + body, A, B)
    np.testing.assert_array_equal(got, np.asarray(INTEGERS[body]).astype(np.uint32))


@pytest.mark.parametrize("kind", ["u32", "s32"])
@pytest.mark.parametrize("name", ["div", "rem"])
def test_division_rounds_towards_zero(name, kind):
    a, b = (A.astype(np.int64), B.astype(np.int64))
    if kind == "s32":
        a, b = long(signed(A)), long(signed(B))
    b = np.where(b == 0, 3, b)
    quotient = np.array([abs(int(x)) // abs(int(y)) for x, y in zip(a, b, strict=True)])
    quotient *= np.sign(a) * np.sign(b)
    want = quotient if name == "div" else a - quotient * b
    got = execute(f"{name}.{kind} %d, %a, %b;", A, (b & 0xFFFFFFFF).astype(np.uint32))
    np.testing.assert_array_equal(got, (want & 0xFFFFFFFF).astype(np.uint32))


@pytest.mark.parametrize(("name", "kind"), [("shl", "b32"), ("shr", "u32"), ("shr", "s32")])
def test_shifts_by_32_and_more(name, kind):
    value = long(signed(A)) if kind == "s32" else long(A)
    by = np.minimum(long(SMALL), 33)
    want = (value << by if name == "shl" else value >> by) & 0xFFFFFFFF
    got = execute(f"{name}.{kind} %d, %a, %b;", A, SMALL)
    np.testing.assert_array_equal(got, want.astype(np.uint32))


X, Y = REALS, np.roll(REALS, 5)
WIDE = X.astype(np.float64) * Y
with np.errstate(all="ignore"):
    FLOATS = {
        "add.f32 %d, %a, %b;": X + Y,
        "add.rn.f32 %d, %a, %b;": X + Y,
        "sub.f32 %d, %a, %b;": X - Y,
        "mul.f32 %d, %a, %b;": X * Y,
        "fma.rn.f32 %d, %a, %b, %a;": (WIDE + X).astype(np.float32),
        "div.rn.f32 %d, %a, %b;": X / Y,
        "min.f32 %d, %a, %b;": np.fmin(X, Y),
        "max.f32 %d, %a, %b;": np.fmax(X, Y),
        "max.NaN.f32 %d, %a, %b;": np.maximum(X, Y),
        "neg.f32 %d, %a;": -X,
        "abs.f32 %d, %a;": np.abs(X),
        "copysign.f32 %d, %a, %b;": np.copysign(Y, X),
        "rcp.rn.f32 %d, %a;": (1 / X.astype(np.float64)).astype(np.float32),
        "rcp.approx.ftz.f32 %d, %b;": (1 / Y.astype(np.float64)).astype(np.float32),
        "sqrt.rn.f32 %d, %a;": np.sqrt(X),
        "rsqrt.approx.f32 %d, %a;": (1 / np.sqrt(X.astype(np.float64))).astype(np.float32),
        "ex2.approx.ftz.f32 %d, %a;": np.exp2(X.astype(np.float64)).astype(np.float32),
        "lg2.approx.f32 %d, %a;": np.log2(X.astype(np.float64)).astype(np.float32),
        "tanh.approx.f32 %d, %a;": np.tanh(X.astype(np.float64)).astype(np.float32),
        "cvt.sat.f32.f32 %d, %a;": np.where(np.isnan(X), 0, np.clip(X, 0, 1)),
        "cvt.rmi.f32.f32 %d, %a;": np.floor(X),
        "cvt.rn.f32.s32 %d, %t;": np.arange(64).astype(np.float32),
        "fma.rm.f32 %d, %t, 0f00000000, 0f3F800000;": np.ones(64),
    }


@pytest.mark.parametrize("body", FLOATS)
def test_floats(body):
    got = execute(body, X, Y, result=np.float32)
    want = np.asarray(FLOATS[body], np.float32)
    if "ftz" in body:
        want = np.where(np.abs(want) < np.finfo(np.float32).tiny, 0, want)
    np.testing.assert_array_equal(got, want)


def test_rounding_down_and_up():
    tiny = np.full(64, 1e-9, np.float32)
    down = execute("fma.rm.f32 %d, %a, 0fBF800000, 0f3F800000;", tiny, result=np.float32)
    near = execute("fma.rn.f32 %d, %a, 0fBF800000, 0f3F800000;", tiny, result=np.float32)
    up = execute("fma.rp.f32 %d, %a, 0f3F800000, 0f3F800000;", tiny, result=np.float32)
    below, above = np.nextafter(np.float32(1), np.float32([0, 2]))
    assert (down[0], near[0], up[0]) == (below, 1, above)


@pytest.mark.parametrize("how", ["lt", "le", "gt", "ge", "eq", "ne", "ltu", "neu", "num", "nan"])
def test_comparisons_with_nan(how):
    table = {"lt": X < Y, "le": X <= Y, "gt": X > Y, "ge": X >= Y, "eq": X == Y}
    unordered = np.isnan(X) | np.isnan(Y)
    table |= {"ne": (X != Y) & ~unordered, "ltu": (X < Y) | unordered, "neu": X != Y}
    table |= {"num": ~unordered, "nan": unordered}
    got = execute(f"setp.{how}.f32 %q1, %a, %b; selp.u32 %d, 1, 0, %q1;", X, Y)
    np.testing.assert_array_equal(got, table[how].astype(np.uint32))


def test_halves():
    with np.errstate(all="ignore"):
        half = X.astype(np.float16)
    pack = "cvt.rn.f16.f32 %h1, %a; cvt.rn.bf16.f32 %h2, %a; mov.b32 %d, {%h1, %h2};"
    got = execute(pack, X)
    np.testing.assert_array_equal((got & 0xFFFF).astype(np.uint16).view(np.float16), half)
    np.testing.assert_array_equal((got >> 16).astype(np.uint16), to_bfloat16(X))
    both = execute("cvt.rn.bf16x2.f32 %d, %a, %b;", X, Y)
    np.testing.assert_array_equal(both >> 16, to_bfloat16(X))
    np.testing.assert_array_equal(both & 0xFFFF, to_bfloat16(Y))
    back = execute("mov.b32 {%h1, %h2}, %a; cvt.f32.bf16 %d, %h2;", A, result=np.float32)
    np.testing.assert_array_equal(back, from_bfloat16(A >> np.uint32(16)))
    np.testing.assert_array_equal(execute("cvt.rna.tf32.f32 %d, %a;", X), to_tf32(X))


@pytest.mark.parametrize(
    ("body", "source"),
    [
        ("shfl.sync.bfly.b32 %d, %a, 3, 31, -1;", np.arange(64) ^ 3),
        ("shfl.sync.idx.b32 %d, %a, 5, 31, -1;", np.arange(64) // 32 * 32 + 5),
        ("shfl.sync.up.b32 %d, %a, 2, 0, -1;", LANES - np.where(LANES % 32 < 2, 0, 2)),
        (
            "shfl.sync.down.b32 %d|%q1, %a, 2, 31, -1;",
            np.arange(64) + np.where(np.arange(64) % 32 > 29, 0, 2),
        ),
    ],
)  # fmt: skip
def test_shuffles(body, source):
    np.testing.assert_array_equal(execute(body, A), A[source])


def test_votes():
    ballot = execute("setp.lt.s32 %q1, %a, 0; vote.sync.ballot.b32 %d, %q1, -1;", A)
    bits = (signed(A) < 0).reshape(2, 32)
    want = [sum(1 << i for i in range(32) if row[i]) for row in bits]
    np.testing.assert_array_equal(ballot, np.repeat(np.array(want, np.uint32), 32))


def test_vectors_and_generic_addresses():
    body = """mov.u32 %r1, pool; shl.b32 %r2, %t, 3; add.s32 %r1, %r1, %r2;
    st.shared.v2.b32 [%r1], {%a, %b}; bar.sync 0; cvt.u64.u32 %w1, %r1; cvta.shared.u64 %w1, %w1;
    ld.v2.b32 {%r3, %r4}, [%w1]; xor.b32 %d, %r3, %r4;"""
    np.testing.assert_array_equal(execute(body, A, B, shared=512), A ^ B)


def test_local_memory_is_each_threads_own():
    body = """.local .align 8 .b8 depot[16]; mov.u64 %w1, depot; add.s64 %w1, %w1, 4;
    st.local.v2.b32 [%w1+4], {%a, %b}; bar.sync 0; ld.local.u32 %d, [%w1+8];"""
    np.testing.assert_array_equal(execute(body, A, B), B)


def test_loops_and_tables_branch():
    loop = """mov.u32 %d, 0; mov.u32 %r1, 0; $again: add.s32 %d, %d, %r1; add.s32 %r1, %r1, 1;
    setp.le.u32 %q1, %r1, %t; @%q1 bra $again;"""
    n = np.arange(64)
    np.testing.assert_array_equal(execute(loop), n * (n + 1) // 2)
    table = """and.b32 %r1, %t, 1; $table: .branchtargets $even, $odd; brx.idx %r1, $table;
    $even: mov.u32 %d, 10; bra.uni $end; $odd: mov.u32 %d, 11; $end:"""
    np.testing.assert_array_equal(execute(table), 10 + n % 2)


CODES = {
    "f16": (
        lambda x: x.astype(np.float16).view(np.uint16).astype(np.uint32),
        lambda bits: bits.astype(np.uint16).view(np.float16),
    ),
    "bf16": (lambda x: to_bfloat16(x).astype(np.uint32), from_bfloat16),
    "tf32": (to_tf32, lambda bits: bits.view(np.float32)),
}


@pytest.mark.parametrize("kind", ["f16", "bf16", "tf32"])
def test_mma_multiplies_fragments(kind):
    """One warp's worth of registers, mapped by the PTX manual's figures, written out here."""
    depth, each = (8, 1) if kind == "tf32" else (16, 2)
    a = RANDOM.standard_normal((16, depth)).astype(np.float32)
    b = RANDOM.standard_normal((depth, 8)).astype(np.float32)
    encode, decode = CODES[kind]
    left, right = encode(a), encode(b)
    registers = np.zeros((32, 6), np.uint32)
    for lane in range(32):
        group, quad = divmod(lane, 4)
        for r in range(6):
            for e in range(each):
                if r < 4:
                    value = left[group + 8 * (r % 2), each * (quad + 4 * (r // 2)) + e]
                else:
                    value = right[each * (quad + 4 * (r - 4)) + e, group]
                registers[lane, r] |= value << np.uint32(16 * e)
    words = np.concatenate([registers, registers]).reshape(-1).copy()
    shape = f"m16n8k{depth}"
    loads = " ".join(f"ld.global.b32 %r{r + 4}, [%w1+{4 * r}];" for r in range(6))
    want = decode(left).astype(np.float64) @ decode(right).astype(np.float64)
    for e in range(4):
        body = f"""ld.param.u64 %w1, [in0]; mul.wide.u32 %w2, %t, 24; add.s64 %w1, %w1, %w2; {loads}
        mov.f32 %f1, 0f00000000; mov.f32 %f2, %f1; mov.f32 %f3, %f1; mov.f32 %f4, %f1;
        mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{%f1,%f2,%f3,%f4}},
          {{%r4,%r5,%r6,%r7}}, {{%r8,%r9}}, {{%f1,%f2,%f3,%f4}};
        mov.b32 %d, %f{e + 1};"""
        got = execute(body, words, result=np.float32)
        lanes = np.arange(64) % 32
        expected = want[lanes // 4 + 8 * (e // 2), 2 * (lanes % 4) + e % 2]
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_ldmatrix(transposed):
    """Rows of two 8x8 matrices, written by their threads: thread t stores words 4 t to 4 t + 3."""
    trans = ".trans" if transposed else ""
    body = f"""mov.u32 %r1, pool; shl.b32 %r2, %t, 2; add.s32 %r3, %r1, %r2;
    st.shared.b32 [%r3], %a; bar.sync 0;
    and.b32 %r4, %t, 15; shl.b32 %r4, %r4, 4; add.s32 %r4, %r4, %r1;
    ldmatrix.sync.aligned.m8n8.x2{trans}.shared.b16 {{%r5, %r6}}, [%r4]; mov.b32 %d, %r6;"""
    got = execute(body, A, shared=256)
    matrix = A.view(np.uint16).reshape(2, 8, 8)[1].astype(np.uint32)
    matrix = matrix.T if transposed else matrix
    lanes = np.arange(64) % 32
    low, high = (matrix[lanes // 4, 2 * (lanes % 4) + e] for e in range(2))
    np.testing.assert_array_equal(got, low | high << np.uint32(16))


def test_asynchronous_copies():
    """Words, zeros where the size is 0; then 16 bytes each, by the first 16 threads."""
    words = """mov.u32 %r1, pool; shl.b32 %r2, %t, 2; add.s32 %r1, %r1, %r2; and.b32 %r3, %t, 1;
    shl.b32 %r3, %r3, 2; cp.async.ca.shared.global [%r1], [%p], 4, %r3; cp.async.commit_group;
    cp.async.wait_group 0; ld.shared.b32 %d, [%r1];"""
    np.testing.assert_array_equal(execute(words, A, shared=256), np.where(LANES % 2, A, 0))
    vectors = """ld.param.u64 %w1, [in0]; mul.wide.u32 %w2, %t, 16; add.s64 %w1, %w1, %w2;
    mov.u32 %r1, pool; shl.b32 %r2, %t, 4; add.s32 %r2, %r1, %r2; setp.lt.u32 %q1, %t, 16;
    @%q1 cp.async.cg.shared.global [%r2], [%w1], 16; cp.async.wait_all; bar.sync 0;
    shl.b32 %r2, %t, 2; add.s32 %r2, %r1, %r2; ld.shared.b32 %d, [%r2];"""
    np.testing.assert_array_equal(execute(vectors, A, shared=256), A)


def test_which_lanes_are_active_is_not_asked_for():
    with pytest.raises(Fault, match="not defined"):
        execute("activemask.b32 %d;")


def test_each_opcode_has_its_test():
    text = Path(__file__).read_text()
    assert not [name for name in TABLE if not re.search(rf"[\"; ]{name}[.\"]", text)]


@pytest.mark.parametrize("body", ["sin.approx.f32 %d, %a;", "atom.global.add.u32 %d, [%p], 1;",
                                  "red.shared.add.u32 [%a], 1;", "mul.hi.s64 %w1, %w1, %w1;",
                                  "shfl.sync.bfly.b32 %d, %a, 1, 0x1c1f, -1;"])  # fmt: skip
def test_what_is_not_known_raises(body):
    with pytest.raises(Unsupported):
        execute(body, A)


def test_conflicts_of_banks_are_counted():
    counts = Counts()
    lanes = np.arange(32)
    whole = np.ones(32, bool)
    counts.count_shared("a", lanes * 4, 4, whole)  # one word a bank
    counts.count_shared("b", lanes * 8, 4, whole)  # every other bank: two words each
    counts.count_shared("c", lanes * 0, 4, whole)  # one word for all
    counts.count_shared("d", lanes * 128, 4, whole)  # one bank
    counts.count_shared("e", lanes * 16, 16, whole)  # quarter warps, each without a conflict
    counts.count_shared("f", lanes * 128, 16, whole)  # 8 rows of one bank group
    got = {kind[-1]: (t.units, t.ideal) for kind, t in counts.traffic.items()}
    want = {"a": (1, 1), "b": (2, 1), "c": (1, 1), "d": (32, 1), "e": (4, 4), "f": (32, 4)}
    assert got == want
    counts.count_global("g", lanes * 64, 4, whole)
    assert counts.space("global").units == 32
    assert counts.space("global").ideal == 4


def test_reads_out_of_bounds_fault():
    with pytest.raises(Fault, match="out of bounds of global memory"):
        execute("ld.global.b32 %d, [%p+256];", A)
