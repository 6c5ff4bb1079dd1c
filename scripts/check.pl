#!/usr/bin/perl
# The rules of the source text that a compiler does not know: which folder may include which, which calls and headers are
# banned where, length of files, lines and functions, white space. Prints "file:line: complaint"; exit status 1 if any.
# Run from the root of the checkout; looks at the tracked files and at those that git does not ignore.
use strict;
use warnings;

# Folder of src/ -> what it may include besides itself. Dependencies point down only (README, "Layout").
my %may_include = (
    base    => [],
    tensor  => [qw(base)],
    text    => [qw(base tensor)],
    comm    => [qw(base tensor)],
    op      => [qw(base tensor)],
    weights => [qw(base tensor)],
    data    => [qw(base tensor text weights)],
    model   => [qw(base tensor op weights)],
    infer   => [qw(base tensor op weights model minke.h)],
    train   => [qw(base tensor op weights text data comm model infer)],
    serve   => [qw(base minke.h)],
    api     => [qw(base tensor op weights text model infer minke.h)],
    app     => [qw(base tensor op weights text data comm model infer train api serve minke.h)],
);

# Calls banned in src/: pattern, folder (regex) where they are allowed, what to use instead.
my @banned_calls = (
    [ qr/\b(malloc|calloc|realloc|free|strdup|strndup|asprintf|aligned_alloc|posix_memalign)\s*\(/,
      qr{^src/base/}, 'base/memory.h or base/arena.h' ],
    [ qr/\b(sprintf|vsprintf|strcpy|strcat|gets|atoi|atol|atof|strtok|mktemp|tmpnam)\s*\(/, qr{^$}, 'a bounded, checked call' ],
    [ qr/\b(getenv|secure_getenv|setenv|putenv)\s*\(/, qr{^$}, 'an option or the configuration' ],
    [ qr/\b((exp|log|sin|cos|tan|pow|tanh|exp2|log2|log10|expm1|log1p|sincos|erf)f?)\s*\(/,
      qr{^src/(?!op/|model/|infer/|train/)}, 'base/math.h: libm differs between versions' ],
    [ qr/\b(rand|srand|rand_r|drand48|random)\s*\(/, qr{^$}, 'base/rng.h' ],
    [ qr/\b(exit|_exit|abort)\s*\(/, qr{^src/(base/error\.c|app/)}, 'an error code or CHECK' ],
);

# Headers that belong to one place.
my @banned_headers = (
    [ qr/^(immintrin|x86intrin|xmmintrin|emmintrin|pmmintrin|smmintrin|nmmintrin|avxintrin)\.h$/,
      qr{^src/op/cpu/(avx2|avx512|amx)/}, 'src/op/cpu/avx2, avx512 and amx' ],
    [ qr/^mpi\.h$/, qr{^src/comm/comm_mpi\.c$}, 'src/comm/comm_mpi.c' ],
);

my $complaints = 0;
sub complain {
    my ($file, $line, $text) = @_;
    print "$file:$line: $text\n";
    $complaints++;
}

# Replaces comments, strings and character constants by spaces (line breaks stay), so that only code is searched.
sub code_of {
    my ($text) = @_;
    $text =~ s{(//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')}
              { my $hit = $1; $hit =~ s/[^\n]/ /g; $hit }gse;
    return $text;
}

sub check_layout {
    my ($file, $lines, $is_c) = @_;
    my $limit = 800;
    complain($file, scalar @$lines, scalar(@$lines) . " lines, at most $limit: the file has two jobs")
        if @$lines > $limit && $is_c;
    complain($file, scalar @$lines, 'no line break at the end') if @$lines && $lines->[-1] !~ /\n\z/;
    complain($file, scalar @$lines, 'empty line at the end') if @$lines > 1 && $lines->[-1] eq "\n";
    for my $i (0 .. $#$lines) {
        my $line = $lines->[$i];
        complain($file, $i + 1, 'white space at the end of the line') if $line =~ /[ \t\r]\n/;
        next unless $is_c;
        complain($file, $i + 1, 'tab') if $line =~ /\t/;
        chomp(my $text = $line);
        utf8::decode($text);
        complain($file, $i + 1, length($text) . ' columns, at most 120') if length($text) > 120 && $text !~ /^#include/;
        complain($file, $i + 1, 'work left open in a comment') if $text =~ m{\b(TODO|FIXME|XXX|HACK)\b};
    }
    complain($file, 1, 'the file does not begin with a comment that says what it is')
        if $is_c && @$lines && $lines->[0] !~ m{^(//|/\*)};
}

# A function starts at a line "...) {" in column 0 and ends at "}" in column 0.
sub check_functions {
    my ($file, $lines) = @_;
    my $start = -1;
    for my $i (0 .. $#$lines) {
        $start = $i if $lines->[$i] =~ /^[A-Za-z_].*\)\s*\{$/ || $lines->[$i] =~ /^ .*\)\s*\{$/ && $start < 0 && $i > 0
            && $lines->[$i - 1] =~ /^[A-Za-z_].*[(,]$/;
        if ($lines->[$i] =~ /^\}/ && $start >= 0) {
            my $length = $i - $start + 1;
            complain($file, $start + 1, "function of $length lines, at most 100") if $length > 100;
            $start = -1;
        }
    }
}

sub check_includes {
    my ($file, $lines) = @_;
    my ($folder) = $file =~ m{^src/([^/]+)/};
    for my $i (0 .. $#$lines) {
        next unless $lines->[$i] =~ /^\s*#\s*include\s*[<"]([^>"]+)[>"]/;
        my $header = $1;
        complain($file, $i + 1, "includes the source file $header") if $header =~ /\.c$/;
        for my $rule (@banned_headers) {
            my ($pattern, $allowed, $place) = @$rule;
            complain($file, $i + 1, "$header belongs in $place") if $header =~ $pattern && $file !~ $allowed;
        }
        next unless defined $folder && $lines->[$i] =~ /"/;
        my ($other) = $header =~ m{^([^/]+)};
        if (!exists $may_include{$folder}) {
            complain($file, $i + 1, "folder src/$folder has no row in scripts/check.pl");
            last;
        }
        next if $other eq $folder || grep { $_ eq $other } @{ $may_include{$folder} };
        complain($file, $i + 1, "src/$folder must not include $header: dependencies point down");
    }
}

sub check_calls {
    my ($file, $lines) = @_;
    for my $i (0 .. $#$lines) {
        for my $rule (@banned_calls) {
            my ($pattern, $allowed, $instead) = @$rule;
            complain($file, $i + 1, "$1 is banned here, use $instead")
                if $lines->[$i] =~ /(?<![.>\w])$pattern/ && defined $1 && $file !~ $allowed;
        }
        complain($file, $i + 1, 'typedef of a struct: write struct name') if $lines->[$i] =~ /\btypedef\s+struct\b/;
    }
}

my @files = split /\n/, `git ls-files --cached --others --exclude-standard`;
for my $file (sort grep { -f $_ } @files) {
    next unless $file =~ /(\.[ch]|\.sh|\.pl|\.py|\.md|Makefile)$/;
    open my $handle, '<', $file or die "$file: $!\n";
    my $text = do { local $/; <$handle> };
    close $handle;
    my @lines = $text =~ /([^\n]*\n|[^\n]+\z)/g;
    check_layout($file, \@lines, $file =~ /\.[ch]$/);
    next unless $file =~ /\.[ch]$/;
    my @code = code_of($text) =~ /([^\n]*\n|[^\n]+\z)/g;
    check_functions($file, \@code);
    check_includes($file, \@lines);
    check_calls($file, \@code) if $file =~ m{^src/};
}
exit($complaints ? 1 : 0);
