# Minke. `make help` lists the targets.
#
# Sources are found by wildcard: a new file needs no line here. Objects of op/cpu/avx2 and op/cpu/avx512 get their own
# instruction-set flags; everything else runs on any x86-64 with FMA (x86-64-v3 without vector code of ours).

ifeq ($(origin CC),default)
  CC     := gcc
endif
BUILD    ?= build
SAN      ?=
OPT      ?= -O2
WARN     := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla
PACKAGES := jansson libpcre2-8 libmicrohttpd libedit libxxhash inih
CFLAGS   += -std=c17 -g $(OPT) -fPIC -ffp-contract=off -fno-math-errno -fno-trapping-math -fvisibility=hidden -pthread
CPPFLAGS += -Isrc -Iinclude -D_GNU_SOURCE $(shell pkg-config --cflags $(PACKAGES))
LDLIBS   += $(shell pkg-config --libs $(PACKAGES)) -lm -pthread

ifneq ($(SAN),)
  BUILD   := build-$(SAN)
  CFLAGS  += -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all
  LDFLAGS += -fsanitize=$(SAN)
endif

SOURCES      := $(sort $(wildcard src/*/*.c src/*/*/*.c src/*/*/*/*.c))
APP_SOURCES  := $(filter src/app/%,$(SOURCES))
LIB_SOURCES  := $(filter-out src/app/%,$(SOURCES))
LIB_OBJECTS  := $(LIB_SOURCES:%.c=$(BUILD)/%.o)
APP_OBJECTS  := $(APP_SOURCES:%.c=$(BUILD)/%.o)
TEST_SOURCES := $(sort $(wildcard tests/*/test_*.c))
TESTS        := $(TEST_SOURCES:tests/%.c=$(BUILD)/tests/%)
SUPPORT      := $(sort $(wildcard tests/support/*.c))
SUPPORT_OBJECTS := $(SUPPORT:%.c=$(BUILD)/%.o)

.PHONY: all test clean
all: $(BUILD)/libminke.a $(BUILD)/libminke.so $(BUILD)/minke

ISA = -mfma -mavx
$(BUILD)/src/op/cpu/avx2/%.o:   ISA = -mavx2 -mfma -mf16c -mbmi2
$(BUILD)/src/op/cpu/avx512/%.o: ISA = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vbmi -mavx512vbmi2 -mavx512bf16 -mavx512vnni -mfma -mbmi2

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) $(WARN) $(CFLAGS) $(ISA) -MMD -MP -c -o $@ $<

$(BUILD)/libminke.a: $(LIB_OBJECTS)
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/libminke.so: $(LIB_OBJECTS)
	$(CC) $(LDFLAGS) -shared -Wl,-soname,libminke.so.0 -o $@ $^ $(LDLIBS)

$(BUILD)/minke: $(APP_OBJECTS) $(BUILD)/libminke.a
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/tests/%: $(BUILD)/tests/%.o $(SUPPORT_OBJECTS) $(BUILD)/libminke.a
	@mkdir -p $(@D)
	$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS) -lcmocka

test: all $(TESTS)
	@MINKE=$(BUILD)/minke scripts/test.sh $(TESTS)

clean:
	rm -rf build build-*

.SECONDARY:
-include $(LIB_OBJECTS:.o=.d) $(APP_OBJECTS:.o=.d) $(TESTS:=.d) $(SUPPORT_OBJECTS:.o=.d)
