// The list of subcommands, in alphabetical order: COMMAND(name, "summary"), one line each, no semicolon.
// No include guard: app.h and main.c include it with their own definition of COMMAND.
