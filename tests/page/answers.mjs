// Texts of the scripted model.

// Everything by which text from a model could become code, escape its block, or break the page.
export const HOSTILE = `<script>window.hacked = 1; alert("script")</script>
<img src=x onerror="window.hacked = 2">
<iframe src="javascript:window.parent.hacked = 3"></iframe>

[link](javascript:window.hacked=4) [link](JaVaScRiPt&#58;window.hacked=5) [link](data:text/html,<script>1</script>)
![picture](https://elsewhere.example/pixel.png) <svg onload="window.hacked=6">

\`\`\`html"><script>window.hacked=7</script>
</code></pre><script>window.hacked = 8</script>
\`\`\`

| <b>a</b> | </td><script>window.hacked=9</script> |
|---|---|
| \`<i>\` | [x](vbscript:1) |

# <style>body { display: none }</style>

> ${"> ".repeat(500)}deep

${"* ".repeat(400)}

${"- ".repeat(300)}

**unclosed *emphasis \`code [link](http://

__proto__ constructor toString \u202e reversed \u0000 nul \uffff \ud800

\`\`\`
an open fence at the end <script>window.hacked = 10</script>`;

export const SHOWCASE_REASONING = `The reader wants to know why the latent cache is small. I should compare what multi-head attention keeps with what
multi-head latent attention keeps, give the numbers, and end with the consequence for long contexts.`;

export const SHOWCASE = `Multi-head latent attention keeps **one short vector per token and layer** instead of a key and a value for every head.

| kept per token and layer | values | BF16 bytes |
|:--|--:|--:|
| keys and values of 128 heads | 40,960 | 81,920 |
| latent vector and shared rotary key | 576 | 1,152 |

The rest is algebra. Up-projections that would rebuild keys and values are *absorbed* into the query and the output:

\`\`\`c
// scores of one head: the query meets the latent vectors directly
for (int64_t t = 0; t < tokens; t++) {
    score[t] = scale * (dot(q_latent, latent[t], 512) + dot(q_rope, rope[t], 64));
}
\`\`\`

So at a depth of 100,000 tokens, one sequence needs:

1. about 7 GB of cache over 61 layers, rather than 500 GB
2. a single read of it per step, shared by all heads
`;
