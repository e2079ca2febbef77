"""Build what pyproject.toml cannot describe: the native engine, compiled once for each instruction set.

Where it cannot be built, the installation goes on without it.
"""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, ExecError, LinkError, PlatformError

_SOURCES = Path("sdk/native")
_ENGINE = "relsdk.runtime.librelsdk"
# No Python inside: one file for every version.
_FILE = "librelsdk.so"
_FLAGS = ["-std=c++17", "-O3", "-g0", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
# Of GCC 12, in its own headers.
_FLAGS += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]
_X86 = {
    "avx512_vnni": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mavx2", "-mfma"],
    "avx2": ["-mavx2", "-mfma"],
}
_AVX_VNNI = ["-mavx2", "-mfma", "-mavxvnni"]  # newer compilers only
_LINUX_ARM = {"neon_dotprod": ["-march=armv8.2-a+dotprod"]}
_INSTRUCTION_SETS: dict[str, dict[str, list[str]]] = {
    "x86_64": _X86,
    "amd64": _X86,
    "aarch64": _LINUX_ARM,
    "arm64": {"neon_dotprod": []},
}


class _BuildEngine(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        *package, name = fullname.split(".")  # the package is left out of some calls
        if name == _ENGINE.rpartition(".")[2]:
            return str(Path(*package, _FILE))
        return str(super().get_ext_filename(fullname))

    def run(self) -> None:
        if self.inplace:
            Path(self.get_ext_fullpath(_ENGINE)).unlink(missing_ok=True)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        # That of an earlier version must not go on where this one cannot be built.
        Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        try:
            self._build(ext)
        except (CCompilerError, CompileError, LinkError, ExecError, PlatformError, OSError) as error:
            self.warn(f"relsdk works without its native engine, and slower; it was not built: {error}")

    def _build(self, ext: Extension) -> None:
        machine = platform.machine().lower()
        if machine not in _INSTRUCTION_SETS:
            raise PlatformError(f"no kernels are written for {machine}")
        sets, macros = _INSTRUCTION_SETS[machine], []
        with ThreadPoolExecutor() as pool:
            kernels = [pool.submit(self._kernels, name, flags) for name, flags in sets.items()]
            newer = pool.submit(self._kernels, "avx_vnni", _AVX_VNNI) if sets is _X86 else None
        if newer is not None and newer.exception() is None:
            kernels.append(newer)
            macros.append(("RELSDK_AVX_VNNI", "1"))
        objects = [name for kernel in kernels for name in kernel.result()]
        objects += self._compile("operator.cpp", "operator", [], macros)
        target = self.get_ext_fullpath(ext.name)
        self.mkpath(str(Path(target).parent))
        self.compiler.link_shared_object(objects, target, target_lang="c++", build_temp=self.build_temp)

    def _kernels(self, instruction_set: str, flags: list[str]) -> list[str]:
        return self._compile(
            "encode.cpp", instruction_set, flags, [(f"RELSDK_{instruction_set.upper()}", "1")]
        )

    def _compile(
        self, name: str, folder: str, flags: list[str], macros: list[tuple[str, str]] | None = None
    ) -> list[str]:
        found: list[str] = self.compiler.compile(
            [str(_SOURCES / name)],
            output_dir=str(Path(self.build_temp, folder)),
            macros=macros or [],
            extra_postargs=[*_FLAGS, *flags],
            depends=[str(path) for path in sorted(_SOURCES.glob("*.h"))],
        )
        return found


setup(
    ext_modules=[
        Extension(
            _ENGINE,
            [str(_SOURCES / name) for name in ("encode.cpp", "operator.cpp")],
            depends=[str(path) for path in sorted(_SOURCES.glob("*.h"))],
            optional=True,
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": _BuildEngine},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
