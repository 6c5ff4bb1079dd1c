# Draws the first table of gradient_tiles, without and with scaled gradients:
#   gnuplot -e "plain='a.tsv'; scaled='b.tsv'; out='gradient-tiles.png'" tests/study/gradient_tiles.gp
set terminal pngcairo size 900,380 font "Sans,9"
set output out
set multiplot layout 1,2
set logscale y
set yrange [0.5:120]
set xrange [0.5:10.5]
set xtics 1
set grid ytics lc rgb "#dddddd"
set xlabel "tokens by magnitude of their gradient, tenths"
set ylabel "relative error of dx, %"
set key top right samplen 2
do for [panel=1:2] {
    file = panel == 1 ? plain : scaled
    set title panel == 1 ? "gradients as training has them" : "gradients times 2^{24}"
    plot file index 0 using 1:6 with linespoints lc rgb "#1b6ca8" pt 7 ps 0.6 title "q\\_b, tiles", \
         file index 0 using 1:7 with linespoints lc rgb "#1b6ca8" dt 2 pt 6 ps 0.6 title "q\\_b, blocks", \
         file index 0 using 1:9 with linespoints lc rgb "#c0392b" pt 7 ps 0.6 title "kv\\_b, tiles", \
         file index 0 using 1:10 with linespoints lc rgb "#c0392b" dt 2 pt 6 ps 0.6 title "kv\\_b, blocks", \
         file index 0 using 1:15 with linespoints lc rgb "#2e8b57" pt 7 ps 0.6 title "ffn up, tiles", \
         file index 0 using 1:16 with linespoints lc rgb "#2e8b57" dt 2 pt 6 ps 0.6 title "ffn up, blocks"
}
unset multiplot
