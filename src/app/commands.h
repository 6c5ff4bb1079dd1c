// The list of subcommands, in alphabetical order: COMMAND(name, "summary"), one line each, no semicolon.
// No include guard: app.h and main.c include it with their own definition of COMMAND.
COMMAND(generate, "continue a text")
COMMAND(logits, "write a model's logits for given token ids as a NumPy file")
COMMAND(perplexity, "score a text: perplexity and bits per byte")
COMMAND(plot, "draw the pictures of training runs")
COMMAND(prepare, "turn text into a dataset of token shards")
COMMAND(tokenize, "turn lines of text into token ids, or back")
