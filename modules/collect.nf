// Accounts for every planned run, and writes tables and report from whatever arrived: nothing may have.
// Files say inside whose they are; histories cannot, and get the names of their runs.
process COLLECT {
    label 'process_low'

    input:
    path plan
    path statuses, stageAs: 'statuses/?/*'
    path metrics, stageAs: 'metrics/?/*'
    path comparisons, stageAs: 'comparisons/?/*'
    tuple val(history_ids), path(curves, stageAs: 'curves/?/*')
    val min_success
    val code_rev

    output:
    path 'run_status.tsv', emit: table
    path '{metrics,statistics,comparisons}.csv', emit: scores
    path 'recons.csv', emit: sheet
    path 'summary.md', emit: summary
    path 'report.html', emit: report
    path 'manifest.json', emit: manifest

    script:
    def inputs = [statuses: statuses, metrics: metrics, comparisons: comparisons]
    def flags = inputs.collectMany { name, paths -> [paths].flatten().collect { path -> "--${name} ${path}" } }
    def histories = history_ids.collect { id -> "histories/${id}.csv" }
    def links = [[curves].flatten(), histories].transpose().collect { source, name -> "ln -s ../${source} ${name}" }
    def history_flags = histories.collect { name -> "--histories ${name}" }
    """
    mkdir histories
    ${links.join('\n    ')}
    ptychoflow collect --plan ${plan} --min-success ${min_success} --code-rev ${code_rev} \\
        ${(flags + history_flags).join(' ')}
    """

    // A run is ok when its metrics arrived.
    stub:
    """
    printf 'run_id\\tstate\\treason\\n' > run_status.tsv
    for id in \$(grep -o '"run_id": "[^"]*"' ${plan} | cut -d'"' -f4 | sort -u); do
        state=missing
        if grep -qs "\\"\$id\\"" metrics/*/metrics.json; then state=ok; fi
        printf '%s\\t%s\\t\\n' "\$id" "\$state" >> run_status.tsv
    done
    echo 'run_id' | tee metrics.csv statistics.csv comparisons.csv > /dev/null
    echo 'recon,scan,view,label,object,seed,N,dose' > recons.csv
    echo '# stub' > summary.md
    echo '{"schema_version": 1}' > manifest.json
    echo '<!doctype html><title>stub</title>' > report.html
    """
}
