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
	@echo 'make modules_install  install it for that kernel, or for that of KERNEL (as root)'
	@echo 'make install          what "make tools" has built, the header and the manual pages;'
	@echo '                      prefix=/usr/local, DESTDIR='
	@echo
	@echo 'These prepare what they need by themselves, in a cache outside the clone.'
	@echo 'KERNEL=VERSION chooses another kernel of the archive than the newest.'
	@echo
	@echo 'make demo             see it work in a virtual machine'
	@echo 'make demo-job         64 processes on 32 nodes move as one job'
	@echo 'make demo-vm          a running guest of QEMU moves, with its virtual CPUs'
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
	@echo 'make deb              Debian packages, into build/deb/'
	@echo 'make test-packages    install, use and purge them in a virtual machine'
	@echo 'make test-slurm       move jobs of a real Slurm in a virtual machine'
	@echo 'make man              page_migrate(4), from the header'
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
	@$(in-root) build/tools/release/pagemigrate generate build/tools/generated

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

.PHONY: test test-debug test-long bench demo demo-job demo-vm lint vm
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
	@scripts/demo job
demo-vm:
	@scripts/demo guest
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

# A tree outside of the cache knows how to sign and compress modules. What was built
# in the build root is copied: kbuild would install it there.
installed-release = $(or $(KERNEL),$(if $(run),$(release)),$(shell uname -r))
modules-dir = $(DESTDIR)$(INSTALL_MOD_PATH)/lib/modules/$(installed-release)
built-module = build/$(installed-release)/page_migrate.ko
.PHONY: modules_install
ifeq ($(or $(KERNEL),$(run))$(wildcard $(KDIR)/rust/libkernel.rmeta),$(KDIR)/rust/libkernel.rmeta)
modules_install: check-kdir
	+$(kbuild) modules_install INSTALL_MOD_PATH='$(DESTDIR)$(INSTALL_MOD_PATH)'
else
modules_install:
	@[ -f '$(built-module)' ] || { echo 'make: first: make module KERNEL=$(installed-release)' >&2; exit 1; }
	install -D -m 644 '$(built-module)' '$(modules-dir)/updates/page_migrate.ko'
	$(if $(INSTALL_MOD_STRIP),strip --strip-debug '$(modules-dir)/updates/page_migrate.ko')
	$(if $(DESTDIR)$(INSTALL_MOD_PATH),,depmod '$(installed-release)')
endif

# Only copies, so that it may run as another user than the build did.
prefix ?= /usr/local
bindir ?= $(prefix)/bin
includedir ?= $(prefix)/include
datadir ?= $(prefix)/share
mandir ?= $(datadir)/man
zshdir ?= $(datadir)/zsh/site-functions
version := $(shell sed '/^\#/d' VERSION)
built := build/tools/release/pagemigrate
generated := build/tools/generated
.PHONY: install
install:
	@[ -x $(built) ] && [ -d $(generated) ] || { echo 'make: first: make tools' >&2; exit 1; }
	install -D -m 755 $(built) '$(DESTDIR)$(bindir)/pagemigrate'
	install -d '$(DESTDIR)$(mandir)/man8'
	install -m 644 $(generated)/man8/*.8 '$(DESTDIR)$(mandir)/man8/'
	install -D -m 644 man/page_migrate.4 '$(DESTDIR)$(mandir)/man4/page_migrate.4'
	install -D -m 644 $(generated)/pagemigrate.bash '$(DESTDIR)$(datadir)/bash-completion/completions/pagemigrate'
	install -D -m 644 $(generated)/pagemigrate.fish '$(DESTDIR)$(datadir)/fish/vendor_completions.d/pagemigrate.fish'
	install -D -m 644 $(generated)/_pagemigrate '$(DESTDIR)$(zshdir)/_pagemigrate'
	install -D -m 644 include/uapi/linux/page_migrate.h '$(DESTDIR)$(includedir)/page_migrate/linux/page_migrate.h'
	install -d '$(DESTDIR)$(datadir)/pkgconfig'
	sed -e 's|@prefix@|$(prefix)|' -e 's|@version@|$(version)|' man/page_migrate.pc.in \
		>'$(DESTDIR)$(datadir)/pkgconfig/page_migrate.pc'

# The header's comments, as a manual page.
.PHONY: man
man:
	@kdir="$$($(setup) --print kdir)" && \
		$(in-root) man/page_migrate "$$kdir" >man/page_migrate.4.new && \
		mv man/page_migrate.4.new man/page_migrate.4

.PHONY: deb test-packages test-slurm
deb:
	@scripts/deb
test-packages:
	@scripts/test-packages
test-slurm:
	@scripts/test-slurm

.PHONY: clean distclean
clean:
	rm -rf build
distclean: clean
	rm -f rust-project.json
	find . -name '*~' -delete
