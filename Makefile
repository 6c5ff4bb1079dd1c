# Minke. `make help` lists the targets and the variables.
#
# Sources are found by wildcard: a new file needs no line here. Objects of op/cpu/avx2, avx512 and amx get their own
# instruction-set flags; everything else runs on any x86-64 with FMA. Which kernels run is decided at run time.

ifeq ($(origin CC),default)
  CC := gcc
endif
BUILD   ?= build
SAN     ?=
OPT     ?= -O2
DESTDIR ?=
PREFIX  ?= /usr/local
VERSION := $(shell sed -n 's/^.define MINKE_VERSION "\(.*\)"/\1/p' include/minke.h)
SONAME  := libminke.so.$(firstword $(subst ., ,$(VERSION)))

WARN     := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
PACKAGES := jansson libpcre2-8 libmicrohttpd libedit libxxhash inih
CFLAGS   += -std=c17 -g $(OPT) -fPIC -ffp-contract=off -fno-math-errno -fno-trapping-math -fvisibility=hidden -pthread
CPPFLAGS += -Isrc -Iinclude -D_GNU_SOURCE $(shell pkg-config --cflags $(PACKAGES) 2>/dev/null)
LDFLAGS  += -Wl,--as-needed
LDLIBS   += $(shell pkg-config --libs $(PACKAGES) 2>/dev/null) -lm -pthread

# A sanitizer build, and the build of `make test-long`, have folders of their own.
ifneq ($(SAN),)
  BUILD   := build-$(SAN)
  CFLAGS  += -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
  LDFLAGS += -fsanitize=$(SAN)
endif
# A build for libFuzzer. The kernels (src/op) are not instrumented: what they are given has been checked.
ifneq ($(FUZZ),)
  BUILD      := build-fuzz
  CC         := clang
  OPT        := -O1
  INSTRUMENT  = -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
  CFLAGS     += $(INSTRUMENT)
build-fuzz/src/op/%.o: INSTRUMENT =
endif
ifneq ($(LONG),)
  BUILD    := $(BUILD)-long
  CPPFLAGS += -DLONG_TESTS
endif

SOURCES      := $(sort $(wildcard src/*/*.c src/*/*/*.c src/*/*/*/*.c))
APP_SOURCES  := $(filter src/app/%,$(SOURCES))
LIB_SOURCES  := $(filter-out src/app/%,$(SOURCES))
LIB_OBJECTS  := $(LIB_SOURCES:%.c=$(BUILD)/%.o)
APP_OBJECTS  := $(APP_SOURCES:%.c=$(BUILD)/%.o)
# One program per tests/<folder>/test_<module>.c; `make test TESTS_OF=base` runs those of one folder.
TESTS_OF     ?= *
TEST_SOURCES := $(sort $(wildcard tests/$(TESTS_OF)/test_*.c))
TESTS        := $(TEST_SOURCES:%.c=$(BUILD)/%)
ifneq ($(filter $(TESTS_OF),* fuzz),)
  TESTS += $(patsubst tests/fuzz/fuzz_%.c,$(BUILD)/tests/fuzz/replay_%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
endif
SUPPORT      := $(sort $(wildcard tests/support/*.c))
SUPPORT_OBJECTS := $(SUPPORT:%.c=$(BUILD)/%.o)
C_FILES       = $(sort $(wildcard src/*/*.[ch] src/*/*/*.[ch] src/*/*/*/*.[ch] include/*.h tests/*/*.[ch] bench/*.[ch] examples/*.[ch]))

# `make V=1` prints whole commands.
Q   := $(if $(V),,@)
say  = @$(if $(V),:,printf '  %-5s %s\n' $(1) $@)

.PHONY: all
all: $(BUILD)/libminke.a $(BUILD)/libminke.so $(BUILD)/minke

# ---- Building ------------------------------------------------------------------------------------------------------

ISA = -mfma -mavx
$(BUILD)/src/op/cpu/avx2/%.o:   ISA = -mavx2 -mfma -mbmi2
$(BUILD)/src/op/cpu/avx512/%.o: ISA = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi -mavx512vbmi2 \
                                      -mavx512bf16 -mavx512vnni -mfma -mbmi2
$(BUILD)/src/op/cpu/amx/%.o: ISA = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi -mavx512vbmi2 \
                                   -mavx512bf16 -mavx512vnni -mfma -mbmi2 -mamx-tile -mamx-bf16
# Kernels of products are many copies of long loops: under a sanitizer they take minutes to compile at -O2.
ifneq ($(SAN),)
  $(BUILD)/src/op/cpu/avx512/linear%.o: CFLAGS += -O1
  $(BUILD)/src/op/cpu/amx/linear%.o: CFLAGS += -O1
endif
# With the thread sanitizer they take an hour; those for AVX2, which share their callers, are instrumented.
ifeq ($(SAN),thread)
  $(BUILD)/src/op/cpu/avx512/linear%.o: CFLAGS += -fno-sanitize=thread
  $(BUILD)/src/op/cpu/amx/linear%.o: CFLAGS += -fno-sanitize=thread
endif
$(BUILD)/tests/%.o: CPPFLAGS += -Itests

# Objects are built again when the compiler or its flags change: $(BUILD)/flags holds what they were built with.
FLAGS := $(CC) $(CPPFLAGS) $(WARN) $(CFLAGS) $(LDFLAGS)
$(BUILD)/flags: force
	@mkdir -p $(@D)
	@echo '$(FLAGS)' | cmp -s - $@ || echo '$(FLAGS)' > $@

$(BUILD)/%.o: %.c $(BUILD)/flags
	$(call say,CC)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CPPFLAGS) $(WARN) $(CFLAGS) $(ISA) -MMD -MP -c -o $@ $<

# The files of the web page are embedded in this object (.incbin).
$(BUILD)/src/serve/page.o: $(wildcard src/serve/page/*)

$(BUILD)/libminke.a: $(LIB_OBJECTS)
	$(call say,AR)
	@rm -f $@
	$(Q)$(AR) qcs $@ $^

$(BUILD)/libminke.so: $(LIB_OBJECTS)
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -shared -Wl,-soname,$(SONAME) -o $@ $^ $(LDLIBS)

$(BUILD)/minke: $(APP_OBJECTS) $(BUILD)/libminke.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# The commands without main, for the tests of src/app.
$(BUILD)/commands.a: $(filter-out $(BUILD)/src/app/main.o,$(APP_OBJECTS))
	$(call say,AR)
	@rm -f $@
	$(Q)$(AR) qcs $@ $^

$(filter $(BUILD)/tests/app/%,$(TESTS)): $(BUILD)/commands.a
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(SUPPORT_OBJECTS) $(BUILD)/libminke.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %/commands.a,$^) $(BUILD)/libminke.a $(LDLIBS) -lcmocka

# ---- Running: these install what is missing (scripts/deps.sh) and then call make again, which looks for it anew ------

# A job for each processor, unless make was called with -j.
AGAIN = $(MAKE) --no-print-directory $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

.PHONY: demo test test-long test-load test-clients test-page tests run-tests
demo:
	@scripts/deps.sh build demo
	@$(AGAIN) all
	@MINKE=$(BUILD)/minke scripts/demo.sh

test:
	@scripts/deps.sh build test
	@$(AGAIN) run-tests

# The same programs with LONG_TESTS defined (all 2^32 inputs of a function, ...): tens of minutes.
test-long:
	@scripts/deps.sh build test
	@$(AGAIN) run-tests LONG=1 TEST_SECONDS=7200

# The web page in headless Chromium (large, hence not part of `make test`), with a picture of it in $(BUILD)/page.png.
test-page:
	@scripts/deps.sh build page
	@$(AGAIN) $(BUILD)/minke
	@node tests/page/test_text.mjs
	@node tests/page/test_page.mjs $(BUILD)/page.png
	@node tests/page/test_server.mjs $(BUILD)/minke

# The client that puts load on a running server (tests/cli/serve_load.sh).
LOAD := $(BUILD)/tests/load/load
$(LOAD): $(BUILD)/tests/load/load.o
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $< $(LDLIBS)

# 200 clients for ten minutes on a small random model; and unmodified clients of OpenAI's API (installs their packages
# in build/clients: the only target besides the oracles that needs a network).
test-load:
	@scripts/deps.sh build test
	@$(AGAIN) all $(LOAD)
	@MINKE=$(BUILD)/minke CLIENTS=200 SECONDS_OF_LOAD=600 tests/cli/serve_load.sh
test-clients:
	@scripts/deps.sh build test
	@$(AGAIN) all
	@MINKE=$(BUILD)/minke tests/clients/run.sh

tests: all $(TESTS) $(LOAD)
run-tests: tests
	@MINKE=$(BUILD)/minke TEST_SECONDS=$(TEST_SECONDS) scripts/test.sh $(TESTS)

# ---- The source text -----------------------------------------------------------------------------------------------

.PHONY: check check-rules check-layout check-bugs format
check:
	@scripts/deps.sh build test check
	@$(MAKE) --no-print-directory --keep-going check-rules check-layout check-bugs
	@echo "check: no complaints"

check-rules:
	@scripts/check.pl
check-layout:
	@clang-format --dry-run --Werror $(C_FILES)
check-bugs:
	@cppcheck --quiet --std=c11 --language=c --enable=warning,performance,portability --inline-suppr \
		--suppressions-list=scripts/cppcheck.txt --error-exitcode=1 -Isrc -Iinclude -D__x86_64__ -j 2 src

format:
	@clang-format -i $(C_FILES)

# ---- Fuzzing (docs/testing.md): tests/fuzz/fuzz_*.c with libFuzzer, clang only ---------------------------------------

FUZZ_SECONDS ?= 1800
FUZZ_OF      ?= *
FUZZ_NAMES   := $(patsubst tests/fuzz/fuzz_%.c,%,$(sort $(wildcard tests/fuzz/fuzz_$(FUZZ_OF).c)))
FUZZ_SHARED  := fuzz $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/with_*.c)))

# `make fuzz` runs all, two at a time; FUZZ_OF=schema that one. What has been run before counts towards FUZZ_SECONDS.
.PHONY: fuzz
fuzz:
	@scripts/deps.sh build fuzz
	@$(AGAIN) FUZZ=1 $(FUZZ_NAMES:%=build-fuzz/fuzz_%)
	@scripts/fuzz.sh build-fuzz $(FUZZ_SECONDS) $(FUZZ_NAMES)

build-fuzz/fuzz_%: build-fuzz/tests/fuzz/fuzz_%.o $(FUZZ_SHARED:%=build-fuzz/tests/fuzz/%.o) build-fuzz/libminke.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

# The same programs without libFuzzer, over the inputs that are kept in tests/fuzz/corpus: a part of `make test`.
$(BUILD)/tests/fuzz/replay_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/replay.o \
		$(FUZZ_SHARED:%=$(BUILD)/tests/fuzz/%.o) $(BUILD)/libminke.a
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# ---- Installing ----------------------------------------------------------------------------------------------------

INSTALL_ROOT = $(DESTDIR)$(PREFIX)
MAN        = $(INSTALL_ROOT)/share/man/man1/minke.1
COMPLETION = $(INSTALL_ROOT)/share/bash-completion/completions/minke
PKGCONFIG  = $(INSTALL_ROOT)/lib/pkgconfig/minke.pc

.PHONY: install uninstall
install: all
	install -D -m 755 $(BUILD)/minke $(INSTALL_ROOT)/bin/minke
	install -D -m 644 include/minke.h $(INSTALL_ROOT)/include/minke.h
	install -D -m 644 $(BUILD)/libminke.a $(INSTALL_ROOT)/lib/libminke.a
	install -D -m 755 $(BUILD)/libminke.so $(INSTALL_ROOT)/lib/libminke.so.$(VERSION)
	ln -sf libminke.so.$(VERSION) $(INSTALL_ROOT)/lib/$(SONAME)
	ln -sf $(SONAME) $(INSTALL_ROOT)/lib/libminke.so
	install -D -m 644 docs/minke.1 $(MAN)
	install -D -m 644 scripts/completion.bash $(COMPLETION)
	install -d $(dir $(PKGCONFIG))
	sed 's|@PREFIX@|$(PREFIX)|; s|@VERSION@|$(VERSION)|; s|@PACKAGES@|$(PACKAGES)|' scripts/minke.pc.in > $(PKGCONFIG)

uninstall:
	rm -f $(INSTALL_ROOT)/bin/minke $(INSTALL_ROOT)/include/minke.h $(INSTALL_ROOT)/lib/libminke.a \
		$(INSTALL_ROOT)/lib/libminke.so.$(VERSION) $(INSTALL_ROOT)/lib/$(SONAME) $(INSTALL_ROOT)/lib/libminke.so \
		$(MAN) $(COMPLETION) $(PKGCONFIG)

# ---- The rest ------------------------------------------------------------------------------------------------------

.PHONY: clean help force
clean:
	rm -rf build build-*

help:
	@echo "make              optimised libminke.a, libminke.so and minke in $(BUILD)/"
	@echo "make demo         install what is missing, build, train a small model for about two minutes, write text"
	@echo "make test         install what is missing, build, run all tests; TESTS_OF=base for those of one folder"
	@echo "make test-long    the tests with exhaustive ranges (tens of minutes)"
	@echo "make test-page    the web page in headless Chromium (installs chromium and nodejs)"
	@echo "make test-load    200 clients on a server for ten minutes;  make test-clients  openai and lm-eval packages"
	@echo "make fuzz         every tests/fuzz/fuzz_*.c under libFuzzer (clang), FUZZ_SECONDS=1800 each; FUZZ_OF=schema: one"
	@echo "make check        source rules (scripts/check.pl), clang-format, cppcheck;  make format  applies clang-format"
	@echo "make install      to PREFIX=$(PREFIX) under DESTDIR=$(DESTDIR);  make uninstall"
	@echo "make clean        remove all build folders"
	@echo "variables         CC=gcc|clang  OPT=-O2  BUILD=build  SAN=address|undefined|thread (folder build-<SAN>)  V=1"

.SECONDARY:
-include $(LIB_OBJECTS:.o=.d) $(APP_OBJECTS:.o=.d) $(TESTS:=.d) $(LOAD).d $(SUPPORT_OBJECTS:.o=.d)
-include $(wildcard $(BUILD)/tests/fuzz/*.d)
