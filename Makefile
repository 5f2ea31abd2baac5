# SPDX-License-Identifier: GPL-2.0
#
# make            the module, for the kernel that KDIR was prepared for
# make help       everything else
#
# Kbuild says what the module consists of.

# A kernel build folder with Rust support.
KDIR ?= /lib/modules/$(shell uname -r)/build
# A kernel of the archive for the virtual machine; empty: the newest.
KERNEL ?=
# The running make may come from a host without any compiler.
MAKEFLAGS += --no-print-directory

setup := scripts/setup$(if $(KERNEL), --kernel $(KERNEL))
in-root := scripts/in-root
cache := $(abspath $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/page_migrate)
jobs = -j$(shell nproc)

# A tree of our own cache is built with the tools of the build root, any other
# with those of the host.
run := $(if $(filter $(cache)/%,$(abspath $(KDIR))),$(in-root))
release = $(shell cat '$(KDIR)/include/config/kernel.release' 2>/dev/null)
objdir = $(CURDIR)/build/$(release)
# The compiler that the kernel was made with, under the same name.
kernel-cc = $(shell sed -n -e 's/^CONFIG_CC_VERSION_TEXT=".*\(clang\) version .*/\1/p;t' \
	-e 's/^CONFIG_CC_VERSION_TEXT="\([^ ]*\) .*/\1/p' '$(KDIR)/.config' 2>/dev/null)
cc := $(if $(filter-out default undefined,$(origin CC)),$(CC),$(kernel-cc))
passed := $(foreach v,W V C CLIPPY LLVM KCFLAGS KRUSTFLAGS,$(if $(filter command line environment,$(origin $(v))),$(v)='$($(v))'))
kbuild = $(run) $(MAKE) --no-print-directory $(jobs) -C '$(KDIR)' M='$(CURDIR)' MO='$(objdir)' $(if $(cc),CC='$(cc)') $(passed)

define no_rust =
	@{ echo 'make: $(KDIR) cannot build Rust modules:'; \
	echo 'make: $(1).'; \
	echo; \
	echo 'Distributions ship their kernel headers without the compiled Rust support'; \
	echo '(rust/*.rmeta). This prepares, in a cache, a tree that has it:'; \
	echo; \
	echo '  make module KERNEL=$(shell uname -r)'; \
	echo '      for the running kernel, if it is one of trixie-backports'; \
	echo '  make module'; \
	echo '      for the newest kernel of trixie-backports, which scripts/vm boots'; \
	echo; \
	echo 'Or give KDIR=FOLDER with a tree in which "make prepare modules_prepare" has'; \
	echo 'run, with CONFIG_RUST=y.'; } >&2; exit 1
endef

.PHONY: all
all: check-kdir
	@mkdir -p '$(objdir)'
	+$(kbuild) modules
	@echo 'build/$(release)/page_migrate.ko'

# What scripts/control loads to see whether faults are noticed.
.PHONY: control
control: check-kdir
	@mkdir -p '$(objdir)/control'
	+$(kbuild) M='$(CURDIR)/tests/control' MO='$(objdir)/control' modules

.PHONY: check-kdir
check-kdir:
ifeq ($(wildcard $(KDIR)/Makefile),)
	$(call no_rust,there is no kernel build folder)
else ifeq ($(wildcard $(KDIR)/rust/libkernel.rmeta),)
	$(call no_rust,rust/libkernel.rmeta is missing)
else ifeq ($(release),)
	$(call no_rust,include/config/kernel.release is missing)
endif

.PHONY: help
help:
	@echo 'make                  page_migrate.ko against KDIR, into build/RELEASE/'
	@echo '                      KDIR=FOLDER   default: that of the running kernel'
	@echo '                      W=1 CLIPPY=1  more warnings'
	@echo 'make modules_install  install it for that kernel (as root)'
	@echo
	@echo 'These prepare what they need by themselves, in a cache outside the clone.'
	@echo 'KERNEL=VERSION chooses another kernel of the archive than the newest.'
	@echo
	@echo 'make demo             see it work in a virtual machine'
	@echo 'make demo-job         64 processes on 32 nodes move as one job'
	@echo 'make test             all tests (TESTS=PATTERN: some)'
	@echo 'make test-debug       those of the virtual machine on a kernel that checks itself,'
	@echo '                      which is built once, in about half an hour'
	@echo 'make test-long        hours: every kernel, the debug kernel, a million calls, load'
	@echo 'make bench            measure it beside the system calls (scripts/bench --help)'
	@echo 'make lint             all checks of the sources'
	@echo 'make format           bring the Rust sources into form'
	@echo 'make setup            the build root and the kernel'
	@echo 'make module           page_migrate.ko for the virtual machine'
	@echo 'make tools            the command pagemigrate, into build/tools/release/'
	@echo 'make tests            the test programs'
	@echo 'make vm               a shell in the virtual machine'
	@echo 'make rust-analyzer    rust-project.json for editors'
	@echo 'make clean            remove build/'
	@echo 'make distclean        and what editors and tools left'

.PHONY: setup
setup:
	@$(setup)

# The virtual machine's kernel: the same rules, with its prepared tree.
.PHONY: module
module:
	@$(MAKE) all KDIR="$$($(setup) --print kdir)"

.PHONY: tools
tools:
	@scripts/setup --root-only >/dev/null
	cd tools && ../$(in-root) env CARGO_TARGET_DIR='$(CURDIR)/build/tools' \
		cargo build --release --offline --workspace

.PHONY: tests
tests:
	@kdir="$$($(setup) --print kdir)" && \
		$(in-root) make $(jobs) -C tests O='$(CURDIR)/build/tests' KDIR="$$kdir"

# What scripts/bench runs.
.PHONY: bench-programs
bench-programs:
	@kdir="$$($(setup) --print kdir)" && \
		$(in-root) make -s $(jobs) -C tests O='$(CURDIR)/build/tests' KDIR="$$kdir" bench

.PHONY: format
format:
	@kdir="$$($(setup) --print kdir)" && $(in-root) rustfmt --edition 2021 \
		--config-path "$$kdir/.rustfmt.toml" src/page_migrate_main.rs
	@for f in tools/*/Cargo.toml tests/*/Cargo.toml; do \
		$(in-root) cargo fmt --manifest-path "$$f" || exit 1; done

.PHONY: test test-debug test-long bench demo demo-job lint vm
test:
	@scripts/test
test-debug:
	@scripts/test --debug
test-long:
	@scripts/test-long
bench:
	@scripts/bench
demo:
	@scripts/demo
demo-job:
	@scripts/demo-job
lint:
	@scripts/lint
vm:
	@scripts/vm

# The standard library's source is that of the build root.
.PHONY: rust-analyzer
rust-analyzer:
	@kdir="$$($(setup) --print kdir)" && root="$$(scripts/setup --print root)" && \
		$(in-root) make -C "$$kdir" M='$(CURDIR)' rust-analyzer && \
		sed -i "s|\"/usr\([/\"]\)|\"$$root/usr\1|g" rust-project.json

.PHONY: modules_install
modules_install: check-kdir
	+$(kbuild) modules_install

.PHONY: clean distclean
clean:
	rm -rf build
distclean: clean
	rm -f rust-project.json
	find . -name '*~' -delete
