// The list of subcommands, in alphabetical order: COMMAND(name, "summary"), one line each, no semicolon.
// No include guard: app.h and main.c include it with their own definition of COMMAND.
COMMAND(bench, "measure speed as a fraction of what this machine can do")
COMMAND(chat, "talk with a model")
COMMAND(convert, "convert a model directory between bf16, fp8 and f32")
COMMAND(generate, "continue a text")
COMMAND(info, "show architecture, parameters, files and memory needs of a model")
COMMAND(init, "write a model with random weights from a config.json")
COMMAND(logits, "write a model's logits for given token ids as a NumPy file")
COMMAND(perplexity, "score a text: perplexity and bits per byte")
COMMAND(plot, "draw the pictures of training runs")
COMMAND(prepare, "turn text into a dataset of token shards")
COMMAND(tokenize, "turn lines of text into token ids, or back")
COMMAND(train, "train a model")
