// The texts that structure a DeepSeek answer. Most are tokens of their own (token_vocabulary.h).
#ifndef MINKE_SERVE_MARKERS_H
#define MINKE_SERVE_MARKERS_H

#define MARKER_THINK "<think>"
#define MARKER_THINK_END "</think>"
#define MARKER_CALLS_BEGIN "<｜tool▁calls▁begin｜>"
#define MARKER_CALLS_END "<｜tool▁calls▁end｜>"
#define MARKER_CALL_BEGIN "<｜tool▁call▁begin｜>"
#define MARKER_CALL_END "<｜tool▁call▁end｜>"
#define MARKER_SEPARATOR "<｜tool▁sep｜>"
#define MARKER_FENCE "```json\n"
#define MARKER_FENCE_END "\n```"

#endif
